"""Entry: make datasets, by generating them or from published files, and look after them."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from dpot_scale.config.arguments import PLACES, Parser
from dpot_scale.config.load import load_suite, presets
from dpot_scale.config.places import in_home
from dpot_scale.data.importers.formats import FORMATS
from dpot_scale.data.importers.importing import (
    Imported,
    Options,
    import_sound,
    recognise_files,
    total_bytes,
)
from dpot_scale.data.importers.progress import ByteProgress
from dpot_scale.data.importers.search import find_files
from dpot_scale.data.importers.source import Source
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.store.dataset import SPLITS, DatasetStore, dataset_folders, read_store
from dpot_scale.data.store.verify import Verification, verify_dataset
from dpot_scale.errors import DataError, UserError, exits_cleanly
from dpot_scale.terminal import print_line, table

DEFAULT_ROOT = Path("data")
GIB = 2**30

COMMANDS = {
    "generate": "solve equations for new datasets",
    "import": "copy published files into the store",
    "list": "show which datasets there are",
    "verify": "check checksums, shapes, values and repeated trajectories",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    The exit code is 1 if a file was not imported or a dataset is faulty, 2 for wrong usage.
    """
    parser = _parser()
    arguments = sys.argv[1:] if argv is None else argv
    parser.require_command(arguments, COMMANDS)
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.run
    return command(options)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dpot_scale.prepare",
        description="Make the datasets that training reads, and look after them. Without any "
        "download, `generate` solves three equations in about a minute; `import` reads published "
        "files.",
        epilog=PLACES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help=COMMANDS["generate"]))
    _add_import(
        commands.add_parser(
            "import",
            help=COMMANDS["import"],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            description="Copy published files into the store. What a file holds is decided by its "
            "content.\nKnown formats:\n" + "\n".join(f"  {name}" for name in FORMATS),
        )
    )
    for name, run in (("list", _list), ("verify", _verify)):
        text = COMMANDS[name]
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
    command.add_argument(
        "--scale",
        type=_positive,
        default=1.0,
        metavar="FACTOR",
        help="multiply the number of trajectories; the suite is then called SUITE-xFACTOR",
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
        help="of the dataset, if there is one; the default is its name in the paper, which some "
        "files do not tell",
    )
    command.add_argument(
        "--link",
        action="store_true",
        help="refer to the files where they lie instead of copying them; they must stay there",
    )
    command.add_argument(
        "--compat",
        choices=["paper"],
        help="paper: reproduce the reference's preprocessing with its quirks (docs/data.md)",
    )
    command.set_defaults(run=_import)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be positive")
    return number


def _dataset_name(text: str) -> str:
    if not is_dataset_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be of letters, digits and . _ -")
    return text


def _generate(options: argparse.Namespace) -> int:
    # Torch and Ray load for seconds: only where they are needed.
    from dpot_scale.data.generation.suite import generate_suite
    from dpot_scale.data.generation.workers import threads

    workers = threads
    if "RAY_ADDRESS" in os.environ:  # set in every Ray job
        from dpot_scale.cluster.solving import ray_tasks as workers

    suite = load_suite(options.suite)
    if options.scale != 1:
        suite = suite.scaled(options.scale)
    root = in_home(options.out or DEFAULT_ROOT / suite.name)
    generate_suite(suite, root, progress=print_line, workers=workers)
    print_line(f"{len(suite.datasets)} datasets of suite {suite.name} are in {root}")
    return 0


def _import(options: argparse.Namespace) -> int:
    files, unreadable = find_files(options.paths)
    how = Options(in_home(options.out), options.name, options.link, options.compat == "paper")
    datasets, problems = recognise_files(files, paper=how.paper)
    problems = unreadable + problems
    if how.name and len(datasets) > 1:
        raise UserError(
            f"--name names one dataset, but there are {len(datasets)} datasets to import"
        )
    _report([str(problem) for problem in problems])
    failed, done = len(problems), 0
    for sources in datasets:
        imported, wrong = _import_dataset(sources, how)
        _report([str(problem) for problem in wrong])
        failed += len(wrong)
        done += imported
    if len(files) > 1 or failed:
        print_line(f"{done} of {len(files)} files are in {how.root}, {failed} failed")
    return 1 if failed else 0


def _import_dataset(sources: Sequence[Source], options: Options) -> tuple[int, list[UserError]]:
    """Import one dataset and say what was done.

    Returns:
        How many files are in it, and what is wrong with others.
    """
    started = time.perf_counter()
    paths = list(dict.fromkeys(source.path for source in sources))
    what = paths[0] if len(paths) == 1 else f"{len(paths)} files below {_common(paths)}"
    print_line(f"{what}: {_content(sources)}")
    with closing(ByteProgress(total_bytes(sources), len(paths))) as progress:
        imported, problems = import_sound(sources, options, progress)
    if imported is None:
        return 0, problems
    print_line(_outcome(imported, what, time.perf_counter() - started, options))
    return imported.files, problems


def _common(paths: Sequence[Path]) -> str:
    return os.path.commonpath(paths)


def _content(sources: Sequence[Source]) -> str:
    if len(sources) == 1:
        return sources[0].describe()
    formats = sorted({source.format for source in sources})
    trajectories = sum(source.trajectories for source in sources)
    return f"{', '.join(formats)}: {trajectories} trajectories of {sources[0].frames} frames"


def _outcome(imported: Imported, what: object, seconds: float, options: Options) -> str:
    if not imported.is_new:
        return f"{imported.folder} already holds {what}; nothing to do"
    return (
        f"{'linked' if options.link else 'imported'} {what} as {imported.folder}: "
        f"{imported.train} train and {imported.test} test trajectories of {imported.frames} "
        f"frames in {seconds:.1f} s"
    )


def _list(options: argparse.Namespace) -> int:
    rows, problems = [], []
    root = in_home(options.folder)
    for folder in _folders(root):
        try:
            rows.append(_row(_name(root, folder), read_store(folder)))
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
    rows: list[list[str]] = []
    problems: list[str] = []
    notes: list[str] = []
    root = in_home(options.folder)
    for folder in _folders(root):
        name = _name(root, folder)
        try:
            store = read_store(folder)
        except DataError as error:
            problems.append(str(error))
            continue
        found = verify_dataset(store)
        rows.append([name, str(found.trajectories), _ranges(store, found), _state(found)])
        problems += [f"{name}: {problem}" for problem in found.problems]
        notes += [f"{name}: {note}" for note in found.notes]
    header = ["name", "trajectories", "range of each channel", "state"]
    print_line(table(header, rows, left=len(header)))
    for note in notes:
        print_line(f"note: {note}")
    return _report(problems)


def _report(problems: Sequence[str]) -> int:
    """Print the problems and return the exit code."""
    for problem in problems:
        sys.stderr.write(f"error: {' '.join(problem.split())}\n")  # HDF5 speaks in several lines
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
