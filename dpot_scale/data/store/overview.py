"""What is in a folder of datasets: a table of them, and of what is wrong with them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dpot_scale.data.store.dataset import SPLITS, DatasetStore, dataset_folders, read_store
from dpot_scale.data.store.folders import walk
from dpot_scale.data.store.published import look_at_file
from dpot_scale.data.store.verify import Verification, verify_dataset
from dpot_scale.errors import DataError, MachineError, UserError
from dpot_scale.terminal import table

LIST_HEADER = (
    "name",
    "equation",
    "grid",
    "frames",
    "channels",
    *SPLITS,
    "size",
    "origin",
)
VERIFY_HEADER = ("name", "trajectories", "range of each channel", "state")
FILE_HEADER = ("file", "state")
GIB = 2**30
MIB = 2**20
SHOWN_LENGTHS = 3


@dataclass
class Overview:
    """What there is to say about the datasets of a folder."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # worth knowing, but no fault
    problems: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Return one line per dataset under a header."""
        return table(self.header, self.rows, left=len(self.header))


def list_datasets(root: Path) -> Overview:
    """Say which datasets a folder holds, from their indices alone.

    Args:
        root: One dataset, or a folder of datasets, at any depth.

    Raises:
        UserError: there is none.
    """
    overview = Overview(LIST_HEADER)
    for name, store in _stores(root, overview.problems):
        info = store.info
        size = sum(
            (folder / name).stat().st_size
            for folder, _, names in walk(store.folder)
            for name in names
            if (folder / name).is_file()
        )
        overview.rows.append(
            (
                name,
                info.equation,
                "x".join(str(points) for points in info.grid),
                _lengths(store),
                ",".join(info.channels),
                *(str(store.num_trajectories(split)) for split in SPLITS),
                f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB",
                info.origin,
            )
        )
    return overview


def verify_datasets(root: Path) -> Overview:
    """Look at every byte of the datasets in a folder.

    Args:
        root: One dataset, or a folder of datasets, at any depth.

    Raises:
        UserError: there is none.
    """
    if root.is_file():
        return _verify_file(root)
    overview = Overview(VERIFY_HEADER)
    for name, store in _stores(root, overview.problems):
        try:
            found = verify_dataset(store)
        except MachineError as error:  # the others may lie elsewhere
            overview.rows.append((name, "", "", "not verified"))
            overview.problems.append(f"{name}: {error}")
            continue
        state = f"{len(found.problems)} problems" if found.problems else "ok"
        overview.rows.append((name, str(found.trajectories), _ranges(store, found), state))
        overview.problems += [f"{name}: {problem}" for problem in found.problems]
        overview.notes += [f"{name}: {note}" for note in found.notes]
    return overview


def _verify_file(path: Path) -> Overview:
    """Say whether a file is one that PDEBench published."""
    try:
        sentence, is_published = look_at_file(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    overview = Overview(FILE_HEADER, rows=[(path.name, sentence)])
    if not is_published:
        overview.problems.append(f"{path} {sentence}")
    return overview


def _stores(root: Path, problems: list[str]) -> Iterator[tuple[str, DatasetStore]]:
    """Yield the datasets that can be opened, each with its name; add what hinders the others."""
    folders = dataset_folders(root)
    if not folders:
        state = "holds no dataset" if root.is_dir() else "does not exist"
        raise UserError(
            f"{root} {state}; make one with `python -m dpot_scale.prepare generate` or `import`"
        )
    for folder in folders:
        name = folder.resolve().name if folder == root else str(folder.relative_to(root))
        try:
            store = read_store(folder)
        except (DataError, MachineError) as error:
            problems.append(str(error))
        else:
            yield name, store


def _lengths(store: DatasetStore) -> str:
    """Return how many frames trajectories have: 20, 20/40, or 12 to 60 where there are more."""
    lengths = sorted({frames for split in SPLITS for _, frames in store.lengths(split)} or {0})
    if len(lengths) > SHOWN_LENGTHS:
        return f"{lengths[0]} to {lengths[-1]}"
    return "/".join(map(str, lengths))


def _ranges(store: DatasetStore, found: Verification) -> str:
    ranges = zip(store.info.channels, found.minimum_C, found.maximum_C, strict=True)
    return ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, low, high in ranges)
