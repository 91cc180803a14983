"""How the C library treats freed memory: XLA's CPU backend takes and gives back its temporaries and results with every
step."""

import ctypes

_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep what it frees instead of returning it to the system; False where the C library is not
    glibc.

    Large blocks are otherwise mapped anew for each step, and every page of them is cleared again when it is first
    touched: 60,000 page faults a step of a 25M model, a tenth of its time (docs/results/forward.md). All threads share
    one arena, because the others cannot hold large blocks. Call it before threads exist. The resident size then stays
    at its peak.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(option, value) == 1 for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
    )
