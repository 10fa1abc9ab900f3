"""Entry: make datasets, by generating them or from published files, and look after them."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dpot_scale.config.load import load_suite, presets
from dpot_scale.data.importers.formats import FORMATS, recognise
from dpot_scale.data.importers.source import Imported, Source, import_source
from dpot_scale.data.store import INDEX, SPLITS, DatasetStore, dataset_folders, read_store
from dpot_scale.data.verify import Verification, verify_dataset
from dpot_scale.errors import DataError, UserError, exits_cleanly
from dpot_scale.training.console import print_line, table

DEFAULT_ROOT = Path("data")
LINES_PER_FILE = 10  # about progress, where there is no terminal
GIB = 2**30


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    The exit code is 1 if a file was not imported or a dataset is faulty, 2 for wrong usage.
    """
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.run
    return command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m dpot_scale.prepare",
        description="Make the datasets that training reads, and look after them. Without any "
        "download, `generate` solves three equations in about a minute; `import` reads published "
        "files.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="solve equations for new datasets"))
    _add_import(
        commands.add_parser(
            "import",
            help="copy published files into the store",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description="Copy published files into the store. What a file holds is decided by its "
            "content.\nKnown formats:\n" + "\n".join(f"  {name}" for name in FORMATS),
        )
    )
    for name, run, text in (
        ("list", _list, "show which datasets there are"),
        ("verify", _verify, "check checksums, shapes, values and repeated trajectories"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
        command.add_argument(
            "folder",
            type=Path,
            nargs="?",
            default=DEFAULT_ROOT,
            metavar="DIR",
            help=f"one dataset, or a folder of datasets (default: {DEFAULT_ROOT})",
        )
        command.set_defaults(run=run)
    return parser


def _add_generate(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Solve equations for new datasets. The same suite gives the same numbers; datasets that "
        "are there already are left alone."
    )
    command.add_argument(
        "--suite",
        default="quickstart",
        metavar="PRESET_OR_YAML",
        help=f"a YAML file, or one of: {', '.join(presets('suite'))} (default: quickstart)",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of datasets (default: {DEFAULT_ROOT}/SUITE, where training looks for it)",
    )
    command.set_defaults(run=_generate)


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="a file, or a folder to search"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_ROOT,
        metavar="DIR",
        help=f"folder of datasets (default: {DEFAULT_ROOT})",
    )
    command.add_argument(
        "--name",
        type=_dataset_name,
        help="of the dataset, for a single file; the default is its name in the paper, which some "
        "files do not tell",
    )
    command.set_defaults(run=_import)


def _dataset_name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.\-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be of letters, digits and . _ -")
    return text


def _generate(options: argparse.Namespace) -> int:
    from dpot_scale.data.generate import generate_suite  # torch: only where it is needed

    suite = load_suite(options.suite)
    root = options.out or DEFAULT_ROOT / suite.name
    generate_suite(suite, root, progress=print_line)
    print_line(f"{len(suite.datasets)} datasets of suite {suite.name} are in {root}")
    return 0


def _import(options: argparse.Namespace) -> int:
    files = [file for path in options.paths for file in _files(path)]
    if options.name and len(files) > 1:
        raise UserError(f"--name names one dataset, but there are {len(files)} files to import")
    failed = 0
    for file in files:
        try:
            _import_file(file, options.out, options.name)
        except DataError as error:
            failed += 1
            sys.stderr.write(f"error: {error}\n")
    if len(files) > 1 or failed:
        print_line(
            f"{len(files) - failed} of {len(files)} files are in {options.out}, {failed} failed"
        )
    return 1 if failed else 0


def _files(path: Path) -> list[Path]:
    """Return a file, or the files below a folder but for hidden ones and our own datasets."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"there is no file or folder {path}")
    found = []
    for folder, subfolders, names in os.walk(path):
        if INDEX in names:
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
    if not found:
        raise UserError(f"there is no file to import in {path}")
    return found


def _import_file(path: Path, root: Path, name: str | None) -> None:
    started = time.perf_counter()
    source = recognise(path)
    with _progress(source) as progress:
        imported = import_source(source, root, name=name, progress=progress)
    print_line(_outcome(imported, path, time.perf_counter() - started))


def _outcome(imported: Imported, path: Path, seconds: float) -> str:
    if not imported.is_new:
        return f"{imported.folder} already holds {path}; nothing to do"
    return (
        f"imported {path} as {imported.folder}: {imported.train} train and {imported.test} test "
        f"trajectories of {imported.frames} frames in {seconds:.1f} s"
    )


@contextmanager
def _progress(source: Source) -> Iterator[Callable[[int], None]]:
    """Show how many trajectories are written: a bar on a terminal, a few lines elsewhere."""
    print_line(f"{source.path} is {source.describe()}")
    total = source.trajectories
    if sys.stdout.isatty():
        with Progress(console=Console(), transient=True) as bar:
            task = bar.add_task(source.path.name, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    shown = 0

    def say_sometimes(done: int) -> None:
        nonlocal shown
        if done < total and done * LINES_PER_FILE // total > shown:
            shown = done * LINES_PER_FILE // total
            print_line(f"{source.path}: {done} of {total} trajectories")

    yield say_sometimes


def _list(options: argparse.Namespace) -> int:
    rows, problems = [], []
    for folder in _folders(options.folder):
        try:
            rows.append(_row(_name(options.folder, folder), read_store(folder)))
        except DataError as error:
            problems.append(str(error))
    header = ["name", "equation", "grid", "frames", "channels", "train", "test", "size", "origin"]
    print_line(table(header, rows, left=len(header)))
    return _report(problems)


def _row(name: str, store: DatasetStore) -> list[str]:
    info = store.info
    size = sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file())
    return [
        name,
        info.equation,
        "x".join(str(points) for points in info.grid),
        "/".join(str(n) for n in sorted({store.num_frames(split) for split in SPLITS})),
        ",".join(info.channels),
        *(str(store.num_trajectories(split)) for split in SPLITS),
        _size(size),
        info.origin,
    ]


def _verify(options: argparse.Namespace) -> int:
    rows, problems = [], []
    for folder in _folders(options.folder):
        name = _name(options.folder, folder)
        try:
            store = read_store(folder)
        except DataError as error:
            problems.append(str(error))
            continue
        found = verify_dataset(store)
        rows.append([name, str(found.trajectories), _ranges(store, found), _state(found)])
        problems += [f"{name}: {problem}" for problem in found.problems]
    header = ["name", "trajectories", "range of each channel", "state"]
    print_line(table(header, rows, left=len(header)))
    return _report(problems)


def _report(problems: Sequence[str]) -> int:
    """Print the problems and return the exit code."""
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    return 1 if problems else 0


def _ranges(store: DatasetStore, found: Verification) -> str:
    ranges = zip(store.info.channels, found.minimum_C, found.maximum_C, strict=True)
    return ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, low, high in ranges)


def _state(found: Verification) -> str:
    return f"{len(found.problems)} problems" if found.problems else "ok"


def _folders(folder: Path) -> list[Path]:
    folders = dataset_folders(folder)
    if not folders:
        state = "holds no dataset" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} {state}; make one with `python -m dpot_scale.prepare generate` or `import`"
        )
    return folders


def _name(root: Path, folder: Path) -> str:
    """Return the name of a dataset, with the folders that lead to it."""
    return folder.resolve().name if folder == root else str(folder.relative_to(root))


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


if __name__ == "__main__":
    sys.exit(main())
