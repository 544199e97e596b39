"""One thread of a process, made to stand still while the others go on (ptrace; root)."""

import contextlib
import ctypes
import os
import pathlib

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
# waitpid for a thread, which is no child.
WALL = 0x40000000


@contextlib.contextmanager
def frozen(pid, name):
    """Stops the thread of that name, 15 characters at most as the kernel keeps it, until the block ends."""
    threads = {task.name: (task / "comm").read_text().strip() for task in pathlib.Path(f"/proc/{pid}/task").iterdir()}
    found = [int(thread) for thread, comm in threads.items() if comm == name]
    if len(found) != 1:
        raise RuntimeError(f"threads of {pid}: {threads}; one {name} was expected")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long

    def ptrace(request):
        if libc.ptrace(request, found[0], None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    ptrace(PTRACE_SEIZE)
    ptrace(PTRACE_INTERRUPT)
    os.waitpid(found[0], WALL)
    try:
        yield
    finally:
        try:
            ptrace(PTRACE_DETACH)
        except OSError:
            # Killed meanwhile: its parent is told only after the tracer has taken note.
            os.waitpid(found[0], WALL)
