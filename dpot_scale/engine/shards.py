"""The files of a checkpoint that engines write: their names, and how all ranks write them."""

import copyreg
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from dpot_scale.errors import DiskError
from dpot_scale.files import cannot_write, is_about_writing

SHARDS = "shards"  # DeepSpeed's tag: the folder of its files inside a checkpoint
MODEL_FILE = f"{SHARDS}/mp_rank_00_model_states.pt"  # where each rank has the whole model


def fairscale_file(rank: int) -> str:
    """Return the file of a rank's part of the optimizer's state, which only FairScale's has."""
    return f"{SHARDS}/fairscale_rank_{rank:02d}.pt"


def pickle_stages_by_value() -> None:
    """Have DeepSpeed's stage of ZeRO pickled as a call of its class, by every Python.

    Python 3.11.0 to 3.11.3 pickle a member of an enumeration as a call of `getattr`, and a
    checkpoint that may call `getattr` is refused: it may call anything.
    """
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, _by_value)


def _by_value(member: Enum) -> tuple[type[Enum], tuple[Any]]:
    return type(member), (member.value,)


@contextmanager
def errors_at_the_end(engine: Any, folder: Path) -> Iterator[None]:  # noqa: ANN401 - untyped
    """Let a rank that cannot write its files take part in all collectives of a save.

    DeepSpeed's ranks wait for each other after they have written: one that raised before would
    leave the others waiting.

    Raises:
        DiskError: a file could not be written; raised when the block ends.
    """
    failures: list[DiskError] = []

    def guarded(write: Callable[..., object]) -> Callable[..., None]:
        def attempt(*args: object, **kwargs: object) -> None:
            try:
                write(*args, **kwargs)
            except (OSError, RuntimeError) as error:
                if not is_about_writing(error):
                    raise
                failures.append(cannot_write(folder, error))

        return attempt

    writer = engine.checkpoint_engine
    writer.save, engine._copy_recovery_script = (
        guarded(writer.save),
        guarded(engine._copy_recovery_script),
    )
    try:
        yield
    finally:
        del writer.save, engine._copy_recovery_script  # the methods of their classes remain
    if failures:
        raise failures[0]
