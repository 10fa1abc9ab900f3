"""Looks at the stack of a thread while something happens that crashed the process of who looked."""

import ctypes
import gc
import sys
import threading

from dpot_scale.runs.stacks import Place

THREADS = 10_000  # of C that enter Python
LOOKS = 20_000


def enter_from_c() -> None:
    """Start threads of C that enter Python once, as those of gloo do where a tensor goes."""
    libc = ctypes.CDLL(None)
    start = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: None)
    begun = [0, 0]

    def work(number: int) -> None:
        thread = ctypes.c_ulong()
        while sum(begun) < THREADS:
            libc.pthread_create(ctypes.byref(thread), None, start, None)
            libc.pthread_join(thread, None)
            begun[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    place = Place(threading.get_ident())
    while any(thread.is_alive() for thread in threads):
        place.has_changed()


class Cycle:
    """Garbage that runs Python, and lets other threads run, when it is collected."""

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        sum(number for number in range(50))


def numbers(depth: int) -> int:
    """Return a sum over generators, whose frames come and go."""
    if depth:
        return numbers(depth - 1)
    return sum(inner for outer in range(4) for inner in (Cycle() and number for number in [outer]))


def leave_garbage() -> None:
    """Run generators that leave garbage, while another thread looks as often as it can."""
    sys.setswitchinterval(1e-5)
    gc.set_threshold(20)
    place = Place(threading.get_ident())
    outermost = set()

    def look() -> None:
        for _ in range(LOOKS):
            place.has_changed()
            outermost.add(place._stacks[0][-1][0].co_name)

    looking = threading.Thread(target=look)
    looking.start()
    while looking.is_alive():
        numbers(20)
    assert outermost == {"<module>"}, outermost
    assert gc.isenabled()


if __name__ == "__main__":
    {"enter_from_c": enter_from_c, "leave_garbage": leave_garbage}[sys.argv[1]]()
