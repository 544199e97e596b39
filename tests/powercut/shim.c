/* Records what a daemon does to its data file, for the replay of power cuts (tests/durability/trace.rs reads it).
 *
 *   cc -O2 -fPIC -shared -o shim.so shim.c -ldl -lpthread
 *   POWERCUT_TRACE=FILE LD_PRELOAD=./shim.so brooklet run …
 *
 * Each event is one write(2) to FILE: kind u8, CLOCK_MONOTONIC ns u64, a u64, b u64, b bytes where the kind has data;
 * little-endian.
 *
 *   W  a = place, b = length, data   a write into the page cache
 *   D  a = place, b = length, data   a write through a descriptor opened O_DSYNC or O_SYNC: durable on return
 *   B  a = number                    a flush begins; everything recorded before it is in the page cache
 *   S  a = number                    that flush has returned without an error
 *   T  a = size                      the file is cut or extended
 *   R                                the file has got its name: before, it was data.mdb.new
 *
 * W, D, T and B carry the time before the call, S and R after it, so that whoever compares an answer's time with an
 * event's errs on the strict side. A lock holds each record and its call together: a write that stands before a B in
 * the trace has reached the page cache when that flush begins, whichever thread made it. Flushes run outside the lock.
 * A call that fails is recorded as if it had not been made; a short write ends the daemon, as the trace would lie.
 * What is written through a map, or by raw system calls, is not seen: the replay compares its end with the real file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name, type, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace = -1;
static uint64_t flushes;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("POWERCUT_TRACE");
    if (path && (trace = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0) abort();
    /* Not for the children of the daemon. */
    unsetenv("LD_PRELOAD");
}

static int is_data(int fd) {
    char link[64], path[4096];
    if (trace < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 9) return 0;
    path[n] = 0;
    const char *name = strrchr(path, '/');
    return name && (!strcmp(name, "/data.mdb") || !strcmp(name, "/data.mdb.new"));
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Keeps errno. */
static void record(char kind, uint64_t at_ns, uint64_t a, uint64_t b, const struct iovec *parts, int count) {
    int saved = errno;
    unsigned char head[25];
    head[0] = (unsigned char)kind;
    memcpy(head + 1, &at_ns, 8);
    memcpy(head + 9, &a, 8);
    memcpy(head + 17, &b, 8);
    struct iovec all[1025];
    if (count > 1024) abort();
    all[0].iov_base = head, all[0].iov_len = sizeof head;
    if (count > 0) memcpy(all + 1, parts, (size_t)count * sizeof *parts);
    REAL(writev, ssize_t, int, const struct iovec *, int);
    if (real(trace, all, count + 1) != (ssize_t)(sizeof head + (parts ? b : 0))) abort();
    errno = saved;
}

static uint64_t bytes_of(const struct iovec *parts, int count) {
    uint64_t sum = 0;
    for (int i = 0; i < count; i++) sum += parts[i].iov_len;
    return sum;
}

/* The lock is held. */
static void note_write(int fd, uint64_t at_ns, off_t place, const struct iovec *parts, int count, ssize_t done) {
    uint64_t length = bytes_of(parts, count);
    if (done < 0) return;
    if ((uint64_t)done != length) abort();
    record(fcntl(fd, F_GETFL) & O_DSYNC ? 'D' : 'W', at_ns, (uint64_t)place, length, parts, count);
}

/* Runs `call` on `fd` under the lock, records it and returns what it returned. */
#define TRACED(place, parts, count, call) \
    do { \
        pthread_mutex_lock(&lock); \
        uint64_t at_ns = now(); \
        off_t from = (place); \
        ssize_t done = (call); \
        note_write(fd, at_ns, from, (parts), (count), done); \
        pthread_mutex_unlock(&lock); \
        return done; \
    } while (0)

ssize_t pwrite(int fd, const void *data, size_t length, off_t place) {
    REAL(pwrite, ssize_t, int, const void *, size_t, off_t);
    if (!is_data(fd)) return real(fd, data, length, place);
    struct iovec part = {(void *)data, length};
    TRACED(place, &part, 1, real(fd, data, length, place));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t place) { return pwrite(fd, data, length, place); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t place) {
    REAL(pwritev, ssize_t, int, const struct iovec *, int, off_t);
    if (!is_data(fd)) return real(fd, parts, count, place);
    TRACED(place, parts, count, real(fd, parts, count, place));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t place) { return pwritev(fd, parts, count, place); }

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write, ssize_t, int, const void *, size_t);
    if (!is_data(fd)) return real(fd, data, length);
    struct iovec part = {(void *)data, length};
    TRACED(lseek(fd, 0, SEEK_CUR), &part, 1, real(fd, data, length));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev, ssize_t, int, const struct iovec *, int);
    if (!is_data(fd)) return real(fd, parts, count);
    TRACED(lseek(fd, 0, SEEK_CUR), parts, count, real(fd, parts, count));
}

static int flush(int fd, int (*real)(int)) {
    if (!is_data(fd)) return real(fd);
    pthread_mutex_lock(&lock);
    uint64_t number = ++flushes;
    record('B', now(), number, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    int result = real(fd);
    if (result == 0) {
        pthread_mutex_lock(&lock);
        record('S', now(), number, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int fdatasync(int fd) {
    REAL(fdatasync, int, int);
    return flush(fd, real);
}

int fsync(int fd) {
    REAL(fsync, int, int);
    return flush(fd, real);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate, int, int, off_t);
    if (!is_data(fd)) return real(fd, size);
    pthread_mutex_lock(&lock);
    uint64_t at_ns = now();
    int result = real(fd, size);
    if (result == 0) record('T', at_ns, (uint64_t)size, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int rename(const char *from, const char *to) {
    REAL(rename, int, const char *, const char *);
    int result = real(from, to);
    const char *name = strrchr(to, '/');
    if (trace >= 0 && result == 0 && name && !strcmp(name, "/data.mdb")) {
        pthread_mutex_lock(&lock);
        record('R', now(), 0, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}
