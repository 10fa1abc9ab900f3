"""Lets the C library keep the memory that a CPU worker frees, for speed, or return it."""

import contextlib
import ctypes

# Numbers of the parameters of glibc's mallopt (malloc.h).
ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1
MIB = 2**20


def tune_heap(*, returns_memory: bool) -> None:
    """Settle how the C library treats the blocks that this process frees.

    Kept blocks leave holes, of about 4 bytes per parameter under ZeRO-3. To return them costs up to
    half a step, because every page of the next block has to be made again. Called here because no
    launcher passes environment variables everywhere, and glibc reads those only at the start of a
    process. Both figures: benchmarks/memory_2026-11.md.
    """
    options = {
        ARENA_MAX: 2,  # each arena keeps freed memory of its own
        MMAP_THRESHOLD: (1 if returns_memory else 32) * MIB,  # a larger block returns when freed
        TRIM_THRESHOLD: (16 if returns_memory else 64) * MIB,  # of smaller ones so much is kept
    }
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)
