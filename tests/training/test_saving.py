"""A disk that is full costs checkpoints, and ends a run only where too much is at stake."""

import pytest

from dpot_scale.engine.runtime import World, start_world
from dpot_scale.errors import DiskError
from dpot_scale.training.saving import MOST_FAILED, Saved, Saving

METRICS = {"checkpoint/upload_seconds": 1.0}


@pytest.fixture(scope="module")
def world() -> World:
    return start_world()


class Disk:
    """Refuses so many saves."""

    def __init__(self, refused: int) -> None:
        self.refused = refused
        self.asked = 0

    def save(self) -> Saved:
        self.asked += 1
        if self.asked <= self.refused:
            raise DiskError("No space left on device: make room there and start again")
        return Saved(self.asked, METRICS)


def test_what_may_be_saved_later_is_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    disk, saving = Disk(1), Saving(world, 4)
    assert saving.attempt(disk.save, must=False) is None
    assert caplog.messages == [
        "No space left on device: make room there; training goes on and saves when the next "
        "checkpoint is due, until then a restart goes back to step 4"
    ]
    assert saving.attempt(disk.save, must=False) == METRICS
    assert disk.asked == 2


def test_what_must_be_saved_is_tried_twice(world: World) -> None:
    assert Saving(world, 0).attempt(Disk(1).save, must=True) == METRICS
    disk = Disk(2)
    with pytest.raises(DiskError):
        Saving(world, 0).attempt(disk.save, must=True)
    assert disk.asked == 2


def test_a_disk_that_stays_full_ends_a_run(world: World) -> None:
    disk, saving = Disk(100), Saving(world, 0)
    for _ in range(MOST_FAILED - 1):
        assert saving.attempt(disk.save, must=False) is None
    with pytest.raises(DiskError):
        saving.attempt(disk.save, must=False)


def test_a_save_in_between_begins_the_count_anew(world: World) -> None:
    saving = Saving(world, 0)
    for _ in range(2):
        disk = Disk(MOST_FAILED - 1)
        for _ in range(MOST_FAILED - 1):
            assert saving.attempt(disk.save, must=False) is None
        assert saving.attempt(disk.save, must=False) == METRICS


def test_saves_that_only_begin_and_then_fail_are_in_a_row(world: World) -> None:
    """As those of a thread, which the next call says."""
    disk, saving = Disk(100), Saving(world, 4)
    for _ in range(MOST_FAILED - 1):
        assert saving.attempt(lambda: Saved(4, METRICS), must=False) == METRICS
        assert saving.attempt(disk.save, must=False) is None
    with pytest.raises(DiskError):
        saving.attempt(disk.save, must=False)
