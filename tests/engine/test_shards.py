"""How ranks write their files: one that cannot still takes part in what the others wait for."""

import copyreg
import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum

from dpot_scale.checkpoints.deepspeed_files import foreign_names
from dpot_scale.engine.shards import errors_at_the_end, pickle_stages_by_value
from dpot_scale.errors import DiskError


class CheckpointEngine:
    """Writes as DeepSpeed's does; fails with an error, if it is given one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def save(self, content: str, path: Path) -> None:
        if self.error is not None:
            raise self.error
        path.write_text(content)


class Engine:
    def __init__(self, error: Exception | None = None) -> None:
        self.checkpoint_engine = CheckpointEngine(error)
        self.met_the_others = False

    def _copy_recovery_script(self, folder: str) -> None:
        (Path(folder) / "script.py").touch()

    def save_checkpoint(self, folder: Path) -> None:
        self.checkpoint_engine.save("weights", folder / "weights")
        self._copy_recovery_script(str(folder))
        self.met_the_others = True  # where DeepSpeed has its barrier


def test_what_can_be_written_is(tmp_path: Path) -> None:
    engine = Engine()
    with errors_at_the_end(engine, tmp_path):
        engine.save_checkpoint(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"weights", "script.py"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EACCES, "Permission denied"),
        RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0"),
    ],
)
def test_a_rank_that_cannot_write_says_so_after_it_has_met_the_others(
    error: Exception, tmp_path: Path
) -> None:
    engine = Engine(error)
    with pytest.raises(DiskError, match=str(tmp_path)), errors_at_the_end(engine, tmp_path):
        engine.save_checkpoint(tmp_path)
    assert engine.met_the_others


def test_another_error_ends_the_save_at_once(tmp_path: Path) -> None:
    engine = Engine(RuntimeError("a mistake of the program"))
    with (
        pytest.raises(RuntimeError, match="a mistake of the program"),
        errors_at_the_end(engine, tmp_path),
    ):
        engine.save_checkpoint(tmp_path)
    assert not engine.met_the_others


def test_the_engine_is_left_as_it_was(tmp_path: Path) -> None:
    engine = Engine(OSError(errno.ENOSPC, "No space left on device"))
    own = dict(vars(engine.checkpoint_engine))
    with pytest.raises(DiskError), errors_at_the_end(engine, tmp_path):
        engine.save_checkpoint(tmp_path)
    assert vars(engine.checkpoint_engine) == own
    assert "_copy_recovery_script" not in vars(engine)


def test_the_stage_is_pickled_without_getattr_by_any_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_python_3_11_2(member: ZeroStageEnum, _: int) -> tuple[Any, ...]:
        return getattr, (type(member), member.name)

    monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", as_python_3_11_2)
    monkeypatch.delitem(copyreg.dispatch_table, ZeroStageEnum, raising=False)
    torch.save({"zero_stage": ZeroStageEnum.weights}, tmp_path / "before.pt")
    assert foreign_names(tmp_path / "before.pt") == ["builtins.getattr"]
    pickle_stages_by_value()
    torch.save({"zero_stage": ZeroStageEnum.weights}, tmp_path / "after.pt")
    assert foreign_names(tmp_path / "after.pt") == []
    found = torch.load(tmp_path / "after.pt", weights_only=False)
    assert found == {"zero_stage": ZeroStageEnum.weights}
