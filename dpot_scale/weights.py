"""Entry: look into weights, convert them, and take them out of runs and their checkpoints."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dpot_scale.checkpoints.source import ANY_SOURCE, config_of, no_weights
from dpot_scale.config.arguments import Entry
from dpot_scale.config.load import load_run
from dpot_scale.config.places import MLFLOW_URI
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.terminal import print_line, under_way
from dpot_scale.tracking.mlflow_client import read_run_id
from dpot_scale.tracking.registered import is_registered, local


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; the exit code is 2 for a file that cannot be used."""
    entry = Entry(
        "weights",
        "Look into weights files and convert them. Every key is accounted for, and no code in "
        "a file is ever run.",
    )
    inspect = entry.add_command("inspect", "print architecture, parameters and keys", _inspect)
    inspect.add_argument("source", type=Path, help=ANY_SOURCE)
    convert = entry.add_command(
        "import", "convert a released .pth to a .safetensors export", _import
    )
    convert.add_argument("source", type=Path, help="the released .pth to read")
    convert.add_argument("--out", type=Path, required=True, help="the .safetensors export to write")
    export = entry.add_command(
        "export",
        "take weights out of a run or checkpoint, or convert an export to a released .pth",
        _export,
    )
    export.add_argument("source", type=Path, help=ANY_SOURCE)
    export.add_argument(
        "--out",
        type=Path,
        help="of a run or checkpoint, the .safetensors to write in fp32 (default: model_STEP "
        "beside its config.yaml), or a released .pth; of an export, the released .pth",
    )
    register = entry.add_command(
        "register", "put weights into MLflow's registry, for `mlflow models serve`", _register
    )
    register.add_argument("source", type=Path, help=ANY_SOURCE)
    register.add_argument("name", help="the name of the registered model")
    register.add_argument(
        "--mlflow-uri",
        metavar="URI",
        help="the tracking server or database (default: that of the run that the weights lie in, "
        f"else {MLFLOW_URI})",
    )
    with under_way("at work on the weights", sys.stderr):
        return entry.run(argv)


def _inspect(options: argparse.Namespace) -> int:
    _require_source(options)
    # Torch loads for seconds: after what can be found without it.
    from dpot_scale.checkpoints.description import describe
    from dpot_scale.checkpoints.weights import find, read_found

    with local(options.source) as source:
        found = find(source)
        place = found if source == options.source else options.source
        print_line(describe(place, read_found(found)))
    return 0


def _import(options: argparse.Namespace) -> int:
    return _write(options, released=False)


def _export(options: argparse.Namespace) -> int:
    return _write(options, released=True)


def _register(options: argparse.Namespace) -> int:
    _require_source(options)
    config, uri, run_id = config_of(options.source), options.mlflow_uri, None
    if config is not None and uri is None:
        uri = load_run(str(config)).tracking.mlflow_uri
        run_id = None if uri is None else read_run_id(config.parent)
    uri = uri or MLFLOW_URI
    from dpot_scale.serving.registry import how_to_serve, register

    version = register(options.source, options.name, uri, run_id)
    print_line(how_to_serve(options.name, version, uri))
    return 0


def _write(options: argparse.Namespace, *, released: bool) -> int:
    """Write the weights of a run, a checkpoint or the registry, or convert a file."""
    _require_source(options)
    with local(options.source) as source:
        return _write_local(source, options, released=released)


def _write_local(source: Path, options: argparse.Namespace, *, released: bool) -> int:
    """Write weights that lie at a path.

    Args:
        source: The path.
        options: Where from and where to.
        released: Whether a file becomes a released .pth, instead of an export of ours; a run or
            checkpoint does where `--out` ends so.
    """
    of_run = source.is_dir()
    if options.out is None and not of_run:
        raise ConfigError(f"{options.source} is a file: say with --out which one to write")
    from dpot_scale.checkpoints.weights import export, find, read_found
    from dpot_scale.checkpoints.weights_file import save_model, save_released

    found, out = find(source), options.out
    if released and out is not None and (not of_run or out.suffix == ".pth"):
        save_released(out, read_found(found))
    elif found.is_dir():
        out = export(found, out)
    elif out is None:
        print_line(f"{options.source} has ended: its weights are in {found}")
        return 0
    else:
        weights = read_found(found)
        save_model(out, *weights)
    print_line(f"wrote {out}")
    return 0


def _require_source(options: argparse.Namespace) -> None:
    if not is_registered(str(options.source)) and not options.source.exists():
        raise no_weights(options.source)


if __name__ == "__main__":
    sys.exit(main())
