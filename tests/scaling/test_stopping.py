"""A trial hears of a stop within a second or so, and of none but its own attempt's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpot_scale.errors import DiskError
from dpot_scale.scaling import stopping
from dpot_scale.scaling.stopping import STOP_FILE, ask_to_stop, let_run, listen


def test_a_trial_hears_that_it_is_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    let_run(tmp_path)
    asked = listen(tmp_path)
    assert not asked()
    ask_to_stop(tmp_path)
    assert asked()
    let_run(tmp_path)
    assert not listen(tmp_path)(), "the next attempt"


@pytest.mark.parametrize("write", [let_run, ask_to_stop])
def test_a_file_that_cannot_be_written_is_one_sentence(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(DiskError, match=f"cannot write .*{STOP_FILE}"):
        write(tmp_path / "nowhere")


def test_a_missing_file_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    assert not listen(tmp_path / "nowhere")()


def test_it_looks_once_in_a_while(tmp_path: Path) -> None:
    ask_to_stop(tmp_path)
    assert not listen(tmp_path)()
