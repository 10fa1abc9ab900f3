"""Mutates input where that reaches new code: atheris beside the mutations of tests/hostile.

    pip install atheris
    python benchmarks/guided_mutations.py SURFACE [--seconds 120] [--corpus DIR]

It ends with a traceback at the first error that is not our own, after a case of 20 seconds, or
where 2 GiB are taken; else after the time, and says how many cases it tried. What it has learned
stays in DIR.
"""

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

# What is measured is the code of this package and of the YAML reader.
with atheris.instrument_imports(include=["dpot_scale", "yaml"]):
    from dpot_scale.checkpoints.checkpoint import open_checkpoint, verify
    from dpot_scale.config.load import PRESETS, load_run, load_suite, load_sweep
    from dpot_scale.config.places import CHECKPOINTS, JOURNAL, MARKER, RESULT_FILE
    from dpot_scale.data.store.dataset import INDEX, read_store
    from dpot_scale.errors import UserError
    from dpot_scale.runs.result import read_result
    from dpot_scale.scaling.journal import Journal
    from dpot_scale.tracking.spool import SPOOL, open_spool, read_metrics

FORMATS = Path(__file__).parents[1] / "tests" / "golden" / "formats"
RUNS, STORE = FORMATS / "runs", FORMATS / "store" / "dr_pdb_generated"
SHARD = Path("train", "shard-00000.h5")
STEP = Path(CHECKPOINTS, "step_000011")


def read_dataset(folder: Path) -> None:
    """Read a window of each split."""
    with contextlib.closing(read_store(folder)) as store:
        for split in ("train", "test"):
            if store.num_trajectories(split):
                store.read(split, 0, 0, min(3, store.num_frames(split, 0)))


def read_spool(folder: Path) -> None:
    """Read a record of metrics, and go on with it."""
    read_metrics(folder / SPOOL)
    open_spool(folder / SPOOL).close()


def read_checkpoint(folder: Path) -> None:
    """Look at a checkpoint as a start does."""
    checkpoint = open_checkpoint(folder / STEP)
    if checkpoint is not None:
        verify(checkpoint)


# Surface -> the folder that is copied, if any, the file that is mutated, good contents, the reader.
Surface = tuple[Path | None, Path, list[Path], Callable[[Path], object]]
SURFACES: dict[str, Surface] = {
    **{
        f"{kind} config": (
            None,
            Path("config.yaml"),
            sorted((PRESETS / kind).glob("*.yaml")),
            lambda folder, load=load: load(str(folder / "config.yaml")),
        )
        for kind, load in {"run": load_run, "sweep": load_sweep, "suite": load_suite}.items()
    },
    "index": (STORE, Path(INDEX), [STORE / INDEX], read_dataset),
    "shard": (STORE, SHARD, [STORE / SHARD], read_dataset),
    "marker": (
        RUNS / "stopped",
        STEP / MARKER,
        [RUNS / "stopped" / STEP / MARKER],
        read_checkpoint,
    ),
    "result": (None, Path(RESULT_FILE), [RUNS / "finished" / RESULT_FILE], read_result),
    "journal": (
        None,
        Path(JOURNAL),
        [RUNS / "sweep" / JOURNAL],
        lambda folder: Journal(folder).newest(),
    ),
    "spool": (None, Path(SPOOL), [RUNS / "finished" / SPOOL], read_spool),
}


def main() -> None:
    """Mutate one surface."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("surface", choices=SURFACES)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--corpus", type=Path, default=Path("runs/guided_mutations"))
    options = parser.parse_args()
    whole, file, good, read = SURFACES[options.surface]
    corpus = options.corpus / options.surface.replace(" ", "_")
    corpus.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(good):
        shutil.copy(one, corpus / f"good_{number}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "mutated")
        if whole is None:
            folder.mkdir()
        else:
            shutil.copytree(whole, folder)

        def try_one(content: bytes) -> None:
            (folder / file).write_bytes(content)
            with contextlib.suppress(UserError):
                read(folder)

        longest = 2 * max(one.stat().st_size for one in good)
        limits = [f"-max_total_time={options.seconds}", "-timeout=20", "-rss_limit_mb=2048"]
        atheris.Setup([sys.argv[0], *limits, f"-max_len={longest}", str(corpus)], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
