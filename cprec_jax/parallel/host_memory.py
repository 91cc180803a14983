"""What the C library does with freed memory.

XLA's CPU backend allocates and frees its temporaries and results in every step.
"""

import ctypes

_MMAP_MAX, _TRIM_THRESHOLD, _ARENA_MAX = -4, -1, -8  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep freed memory instead of returning it to the system. Call it before threads exist.

    Otherwise large blocks are mapped anew in each step, and the kernel clears every page on its first access: 60,000
    page faults per step of a 25M model, a tenth of its time (docs/results/forward.md). All threads share one arena,
    because the others cannot hold large blocks. The resident size then stays at its peak.

    Returns False where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(option, value) == 1 for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
    )
