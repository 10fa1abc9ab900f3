"""What could not be read is read again: how often, and after which waits."""

import pytest

from dpot_scale.data.stream.patience import MOST_IN_VAIN, WAITS, Patience
from dpot_scale.errors import DataError, MachineError


class Reader:
    """Fails with some errors, one after the other, then reads."""

    def __init__(self, *errors: Exception, ends: bool = False) -> None:
        self.errors = list(errors)
        self.closed = 0
        self.waited: list[float] = []
        self.ends = ends
        self.patience = Patience(self.close, self.wait)

    def close(self) -> None:
        self.closed += 1

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.ends

    def read(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "frames"


AWAY = MachineError("no memory")


def test_what_can_be_read_is_read_once() -> None:
    reader = Reader()
    assert reader.patience.read(reader.read) == "frames"
    assert (reader.closed, reader.waited) == (0, [])


def test_a_file_at_fault_is_opened_anew_once_and_not_waited_for() -> None:
    reader = Reader(DataError("damaged"))
    assert reader.patience.read(reader.read) == "frames"
    reader.errors = [DataError("damaged")] * 2
    with pytest.raises(DataError, match="damaged"):
        reader.patience.read(reader.read)
    assert (reader.closed, reader.waited) == (2, [])


def test_what_may_pass_is_waited_for() -> None:
    reader = Reader(AWAY, AWAY)
    assert reader.patience.read(reader.read) == "frames"
    assert (reader.closed, reader.waited) == (2, list(WAITS[:2]))


def test_waiting_ends_where_it_turns_out_to_be_a_file_at_fault() -> None:
    reader = Reader(AWAY, DataError("damaged"))
    with pytest.raises(DataError, match="damaged"):
        reader.patience.read(reader.read)
    assert reader.waited == [WAITS[0]]


def test_waiting_ends_where_nobody_wants_it_any_more() -> None:
    reader = Reader(AWAY, ends=True)
    with pytest.raises(MachineError):
        reader.patience.read(reader.read)
    assert reader.waited == [WAITS[0]]


def test_after_some_waits_in_vain_there_is_no_other_until_one_can_read() -> None:
    reader = Reader()
    for _ in range(MOST_IN_VAIN + 1):
        reader.errors = [AWAY] * (1 + len(WAITS))
        with pytest.raises(MachineError):
            reader.patience.read(reader.read)
    assert reader.waited == list(WAITS) * MOST_IN_VAIN
