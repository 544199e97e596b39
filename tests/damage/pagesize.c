/* Answers another page size than the kernel's, as a kernel with 16 KiB pages would: FAKE_PAGE_BYTES=16384. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

long sysconf(int name) {
    static long (*real)(int);
    const char *bytes = getenv("FAKE_PAGE_BYTES");
    if (!real) real = dlsym(RTLD_NEXT, "sysconf");
    return name == _SC_PAGESIZE && bytes ? atol(bytes) : real(name);
}
