"""Folders of sweeps that were copied or moved after they were written."""

from pathlib import Path

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import JOURNAL, SWEEP_CONFIG, TRIALS
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.files import is_another


def where_it_lies(sweep: SweepConfig, config: str) -> SweepConfig:
    """Return a sweep that is in the folder whose own config it was read from.

    That config names the place where the sweep was run, which for a copy is the place of another.

    Args:
        sweep: The sweep, with absolute paths.
        config: The file or preset that it was read from.
    """
    folder = Path(config).absolute().parent
    is_of_sweep = Path(config).name == SWEEP_CONFIG and (
        (folder / TRIALS).is_dir() or (folder / JOURNAL).is_file()
    )
    if not is_of_sweep:
        return sweep
    run = sweep.run.model_copy(update={"output": folder.parent})
    return sweep.model_copy(update={"run": run, "name": folder.name})


def original_of(sweep: SweepConfig) -> Path | None:
    """Return the folder that the folder of a sweep is a copy of; None if it is the only one."""
    try:
        written = load_sweep(str(sweep.directory / SWEEP_CONFIG))
    except ConfigError:
        return None
    return written.directory if is_another(written.directory, sweep.directory) else None
