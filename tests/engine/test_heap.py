"""What the C library does with freed memory."""

import ctypes
import sys

import pytest

from dpot_scale.engine import heap
from dpot_scale.engine.heap import ARENA_MAX, MIB, MMAP_THRESHOLD, TRIM_THRESHOLD, tune_heap


class Library:
    def __init__(self) -> None:
        self.options: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        self.options[option] = value
        return 1


def test_a_lean_run_keeps_less_of_what_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, returned = Library(), Library()
    for library, returns_memory in ((kept, False), (returned, True)):
        monkeypatch.setattr(heap.ctypes, "CDLL", lambda _, library=library: library)
        tune_heap(returns_memory=returns_memory)
    assert kept.options.keys() == returned.options.keys()
    assert kept.options[ARENA_MAX] == returned.options[ARENA_MAX] == 2
    for threshold in (MMAP_THRESHOLD, TRIM_THRESHOLD):
        assert MIB <= returned.options[threshold] < kept.options[threshold]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is of Linux")
def test_glibc_takes_every_option() -> None:
    libc = ctypes.CDLL("libc.so.6")
    # The numbers of malloc.h; mallopt answers 0 where it refuses.
    assert libc.mallopt(ARENA_MAX, 2) == 1
    assert libc.mallopt(MMAP_THRESHOLD, 32 * MIB) == 1
    assert libc.mallopt(TRIM_THRESHOLD, 64 * MIB) == 1


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(heap.ctypes, "CDLL", absent)
    tune_heap(returns_memory=True)
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())  # has no mallopt
    tune_heap(returns_memory=True)
