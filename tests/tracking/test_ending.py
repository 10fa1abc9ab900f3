"""Why a run ended: a word of a list and a sentence, also from records of earlier versions."""

import pickle

import pytest
import torch

from dpot_scale.errors import (
    ConfigError,
    DataError,
    DiskError,
    LostPeerError,
    MachineError,
    SharedMachineError,
)
from dpot_scale.runs.endings import TrainingDivergedError, TrainingStoppedError
from dpot_scale.scaling.endings import TrialCancelledError, TrialFailedError, TrialInterruptedError
from dpot_scale.tracking.ending import described, tags_of
from dpot_scale.training.watch import Stop

DIED = "a worker died: killed, out of memory, or crashed"


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (KeyboardInterrupt(), "signal"),
        (SystemExit(), "signal"),
        (TrainingDivergedError("x"), "diverged"),
        (LostPeerError("x"), "lost_peer"),
        (DataError("x"), "bad_data"),
        (MachineError("x"), "machine"),
        (SharedMachineError("x"), "machine"),
        (DiskError("x"), "disk"),
        (ConfigError("x"), "failed"),
        (TrialFailedError(DIED, "lost_peer"), "lost_peer"),
        (TrialFailedError(DIED), "failed"),
        (TrialCancelledError("saved"), "cancelled"),
        (TrialInterruptedError("saved"), "signal"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
            "out_of_memory",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (AssertionError("x"), "failed"),
    ],
)
def test_an_error_is_one_word(error: BaseException, word: str) -> None:
    assert tags_of(described(error), "FAILED")["stop"] == word


@pytest.mark.parametrize(
    ("stop", "word"),
    [
        (Stop.TOLD, "told"),
        (Stop.WALL_CLOCK, "wall_clock"),
        (Stop.PREEMPTED, "preempted"),
        (Stop.ORPHANED, "orphaned"),
        (Stop.SIGINT, "signal"),
        (Stop.SIGTERM, "signal"),
    ],
)
def test_a_stop_is_one_word_that_survives_a_way_between_processes(stop: Stop, word: str) -> None:
    error = pickle.loads(pickle.dumps(TrainingStoppedError("it was stopped", stop.tag())))
    assert tags_of(described(error), "KILLED") == {"stop": word, "stop_reason": "it was stopped"}


@pytest.mark.parametrize(
    ("stop", "status", "word", "reason"),
    [
        ("", "FINISHED", "finished", ""),
        ("finished", "FINISHED", "finished", ""),
        ("killed", "KILLED", "killed", ""),
        ("interrupted", "KILLED", "signal", ""),
        ("interrupted: run x was stopped", "KILLED", "signal", "run x was stopped"),
        ("cancelled: saved", "KILLED", "cancelled", "saved"),
        ("failed: a: b", "FAILED", "failed", "a: b"),
        ("of a later version: x", "FAILED", "failed", "of a later version: x"),
    ],
)
def test_what_earlier_versions_recorded_is_understood(
    stop: str, status: str, word: str, reason: str
) -> None:
    assert tags_of(stop, status) == {"stop": word, "stop_reason": reason}


def test_the_address_in_an_error_of_a_library_loses_its_password() -> None:
    error = RuntimeError("no answer from https://me:pw@host/x")
    assert described(error) == "failed: no answer from https://...@host/x"
