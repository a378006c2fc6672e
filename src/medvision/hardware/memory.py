"""What the allocator does with memory that is no longer used."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_LARGEST_INT = 2**31 - 1
_TOP_PAD_BYTES = 2**27


def keep_freed_memory() -> None:
    """Let the allocator keep what a step frees for the next step.

    glibc hands blocks of megabytes back to the system at once, and every page of them is
    cleared anew when the next step asks for it. Elsewhere than on glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
    mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
