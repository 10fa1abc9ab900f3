"""Entry: make datasets, by generating them or from published files, and look after them."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from dpot_scale.config.arguments import Entry, positive_number
from dpot_scale.config.data import ArrayLayout
from dpot_scale.config.load import load_layout, load_suite, presets
from dpot_scale.config.places import in_home
from dpot_scale.data.importers.collection import import_all
from dpot_scale.data.importers.formats import FORMATS
from dpot_scale.data.importers.importing import Options
from dpot_scale.data.info import is_dataset_name
from dpot_scale.data.store.overview import Overview, list_datasets, verify_datasets
from dpot_scale.errors import UserError, exits_cleanly
from dpot_scale.terminal import print_error, print_line, under_way

DEFAULT_ROOT = Path("data")
# Of the options for plain arrays that are keys of an `ArrayLayout`, what they say.
LAYOUT_FLAGS = {
    "channels": "names of the channels (default: c0, c1, ..., or after the arrays)",
    "dt": "time between frames (default: 1)",
    "domain": "lengths of the space axes (default: unknown)",
    "units": "units of the channels, for pictures (default: those in an HDF5 file)",
    "length_unit": "unit of --domain",
    "time_unit": "unit of --dt",
    "arrays": "which arrays to read from files that hold several (default: those that --channels "
    "names, or the only one with these axes)",
    "test_share": "share of the trajectories for the test, the last ones (default: the files whose "
    "names or folders say test, or 0.1)",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    The exit code is 1 if a file was not imported or a dataset is faulty, 2 for wrong usage.
    """
    entry = Entry(
        "prepare",
        "Make the datasets that training reads, and look after them. Without any download, "
        "`generate` solves three equations in about a minute; `import` reads published files.",
    )
    _add_generate(entry)
    _add_import(entry)
    for name, text, look in (
        ("list", "show which datasets there are", list_datasets),
        ("verify", "check checksums, shapes, values and repeated trajectories", verify_datasets),
    ):
        entry.add_command(name, text, partial(_show, look)).add_argument(
            "folder",
            type=Path,
            nargs="?",
            default=DEFAULT_ROOT,
            metavar="DIR",
            help=f"one dataset, or a folder of datasets (default: {DEFAULT_ROOT}); `verify` also "
            "takes a download of PDEBench",
        )
    return entry.run(argv)


def _generate(options: argparse.Namespace) -> int:
    # Torch and Ray load for seconds: only where they are needed.
    from dpot_scale.data.generation.suite import generate_suite
    from dpot_scale.data.generation.workers import Workers, threads

    workers: Callable[[], AbstractContextManager[Workers]] = threads
    if options.on == "ray" or (options.on == "auto" and os.environ.get("RAY_ADDRESS")):
        from dpot_scale.cluster.solving import ray_tasks

        workers = partial(ray_tasks, print_line)
    suite = load_suite(options.suite)
    if options.scale != 1:
        suite = suite.scaled(options.scale)
    root = in_home(options.out or DEFAULT_ROOT / suite.name)
    generate_suite(suite, root, progress=print_line, workers=workers)
    print_line(f"{len(suite.datasets)} datasets of suite {suite.name} are in {root}")
    return 0


def _import(options: argparse.Namespace) -> int:
    root = in_home(options.out)
    how = Options(
        root,
        options.name,
        options.link,
        options.compat == "paper",
        _layout(options),
        options.tensors,
        Path(options.layout) if options.layout else None,
    )
    outcome = import_all(options.paths, how)
    if outcome.files > 1 or outcome.problems:
        print_line(
            f"{outcome.imported} of {outcome.files} files are in {root}, {outcome.problems} failed"
        )
    return 1 if outcome.problems else 0


def _layout(options: argparse.Namespace) -> ArrayLayout | None:
    """Return what plain arrays are, if the command line says it."""
    flags = {key: getattr(options, key) for key in LAYOUT_FLAGS}
    said = {key: value for key, value in flags.items() if value is not None}
    if options.layout is not None:
        return load_layout(options.layout, said)
    if said:
        raise UserError(f"--{next(iter(said)).replace('_', '-')} needs --layout")
    return None


def _show(look: Callable[[Path], Overview], options: argparse.Namespace) -> int:
    with under_way("reading the datasets", sys.stderr):
        overview = look(in_home(options.folder))
    print_line(overview.table())
    for note in overview.notes:
        print_line(f"note: {note}")
    for problem in overview.problems:
        print_error(problem)
    return 1 if overview.problems else 0


def _add_generate(entry: Entry) -> None:
    command = entry.add_command(
        "generate",
        "solve equations for new datasets",
        _generate,
        description="Solve equations for new datasets. The same suite gives the same numbers; "
        "datasets that are there already are left alone.",
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
        type=positive_number,
        default=1.0,
        metavar="FACTOR",
        help="multiply the number of trajectories; the suite is then called SUITE-xFACTOR",
    )
    command.add_argument(
        "--on",
        choices=["auto", "here", "ray"],
        default="auto",
        help="who solves: this machine, a Ray cluster, or (auto, the default) the cluster where "
        "RAY_ADDRESS is set, as it is in every Ray job",
    )


def _add_import(entry: Entry) -> None:
    command = entry.add_command(
        "import",
        "copy published files into the store",
        _import,
        description="Copy published files into the store. What a file holds is decided by its "
        "content.\nKnown formats:\n" + "\n".join(f"  {name}" for name in FORMATS),
    )
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
        "--tensors",
        action="store_true",
        help="of The Well: import tensor fields too, each component as a channel",
    )
    command.add_argument(
        "--compat",
        choices=["paper"],
        help="paper: reproduce the reference's preprocessing with its quirks (docs/data.md)",
    )
    _add_layout(command)


def _add_layout(command: argparse.ArgumentParser) -> None:
    layout = command.add_argument_group(
        "plain arrays",
        "of your own in .npy, .npz, .pt or HDF5 (docs/data.md); all but --layout may also be keys "
        "of its YAML file",
    )
    layout.add_argument(
        "--layout",
        metavar="AXES_OR_YAML",
        help="the axes in order, for example NTXYC: N trajectories, T frames, C channels, X, Y and "
        "Z space; or a YAML file with the key `layout`",
    )
    names: Callable[[str], list[str]] = partial(str.split, sep=",")
    layout.add_argument("--channels", type=names, metavar="A,B", help=LAYOUT_FLAGS["channels"])
    layout.add_argument("--dt", metavar="TIME", help=LAYOUT_FLAGS["dt"])
    layout.add_argument("--domain", type=names, metavar="X,Y", help=LAYOUT_FLAGS["domain"])
    layout.add_argument("--units", type=names, metavar="A,B", help=LAYOUT_FLAGS["units"])
    layout.add_argument("--length-unit", metavar="UNIT", help=LAYOUT_FLAGS["length_unit"])
    layout.add_argument("--time-unit", metavar="UNIT", help=LAYOUT_FLAGS["time_unit"])
    layout.add_argument("--arrays", type=names, metavar="A,B", help=LAYOUT_FLAGS["arrays"])
    layout.add_argument("--test-share", metavar="SHARE", help=LAYOUT_FLAGS["test_share"])


def _dataset_name(text: str) -> str:
    if not is_dataset_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be of letters, digits and . _ -")
    return text


if __name__ == "__main__":
    sys.exit(main())
