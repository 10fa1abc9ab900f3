"""Entry: look into weights, convert them, and take them out of runs and their checkpoints."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.checkpoints.source import SOURCE, no_weights
from dpot_scale.config.arguments import Parser
from dpot_scale.errors import ConfigError, exits_cleanly
from dpot_scale.models.dpot.cost import count_parameters, forward_flops_per_window

if TYPE_CHECKING:
    from dpot_scale.checkpoints.weights_file import Weights

COMMANDS = {
    "inspect": "print architecture, parameters and keys",
    "import": "convert a released .pth to a .safetensors export",
    "export": "take weights out of a run or checkpoint, or convert an export to a released .pth",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; the exit code is 2 for a file that cannot be used."""
    parser = _parser()
    arguments = sys.argv[1:] if argv is None else argv
    parser.require_command(arguments, COMMANDS)
    options = parser.parse_args(arguments)
    if not options.source.exists():
        raise no_weights(options.source)
    from_run = options.source.is_dir()
    if options.command != "inspect" and options.out is None and not from_run:
        raise ConfigError(f"{options.source} is a file: say with --out which one to write")
    # Torch loads for seconds: after what can be found without it.
    from dpot_scale.checkpoints.weights import export, find, read_found
    from dpot_scale.checkpoints.weights_file import save_model, save_released

    found = find(options.source)
    if options.command == "inspect":
        sys.stdout.write(_summary(found, read_found(found)))
        return 0
    if found.is_dir():
        return _wrote(export(found, options.out))
    if options.out is None:
        sys.stdout.write(f"{options.source} has ended: its weights are in {found}\n")
        return 0
    weights = read_found(found)
    if options.command == "import" or from_run:
        save_model(options.out, weights.architecture, weights.state)
    else:
        save_released(options.out, weights)
    return _wrote(options.out)


def _wrote(path: Path) -> int:
    sys.stdout.write(f"wrote {path}\n")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dpot_scale.weights",
        description="Look into DPOT weights files and convert them. Every key is accounted for, "
        "and no code in a file is ever run.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help=COMMANDS["inspect"])
    inspect.add_argument("source", type=Path, help=SOURCE)
    convert = commands.add_parser("import", help=COMMANDS["import"])
    convert.add_argument("source", type=Path, help="the released .pth to read")
    convert.add_argument("--out", type=Path, required=True, help="the .safetensors export to write")
    export = commands.add_parser("export", help=COMMANDS["export"])
    export.add_argument("source", type=Path, help=SOURCE)
    export.add_argument(
        "--out",
        type=Path,
        help="of a run or checkpoint, the .safetensors to write in fp32 (default: model_STEP "
        "beside its config.yaml); of an export, the released .pth",
    )
    return parser


def _summary(path: Path, weights: "Weights") -> str:
    arch, state = weights
    count = count_parameters(arch)
    lines = [f"{path}", "", "architecture"]
    lines += [f"  {name:<20}{value}" for name, value in asdict(arch).items()]
    lines += ["", f"{'parameters':<22}{'number':>15}{'share':>8}"]
    lines += [
        f"  {part:<20}{number:>15,}{number / count.total:>8.1%}"
        for part, number in asdict(count).items()
    ]
    lines += [f"  {'total':<20}{count.total:>15,}"]
    lines += ["", f"{'keys':<22}{'tensors':>15}  dtype"]
    for part in dict.fromkeys(key.split(".")[0] for key in state):
        tensors = [tensor for key, tensor in state.items() if key.split(".")[0] == part]
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        lines.append(f"  {part:<20}{len(tensors):>15}  {', '.join(dtypes)}")
    lines += ["", f"forward: {forward_flops_per_window(arch) / 1e9:.3g} GFLOP per window", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
