"""Entry: look into weights files and convert between ours and the released format."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dpot_scale.config.arguments import Parser
from dpot_scale.errors import exits_cleanly
from dpot_scale.model.cost import count_parameters, forward_flops_per_window
from dpot_scale.model.weights_file import no_weights

if TYPE_CHECKING:
    from dpot_scale.model.export import Weights

COMMANDS = {
    "inspect": "print architecture, parameters and keys",
    "import": "convert a released .pth to a .safetensors export",
    "export": "convert a .safetensors export to a released .pth",
}


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the commands; the exit code is 2 for a file that cannot be used."""
    parser = _parser()
    arguments = sys.argv[1:] if argv is None else argv
    parser.require_command(arguments, COMMANDS)
    options = parser.parse_args(arguments)
    if not options.file.is_file():
        raise no_weights(options.file)
    # Torch loads for seconds: after what can be found without it.
    from dpot_scale.model.export import read_weights, save_model, save_released

    weights = read_weights(options.file)
    if options.command == "inspect":
        sys.stdout.write(_summary(options.file, weights))
        return 0
    if options.command == "import":
        save_model(options.out, weights.architecture, weights.state)
    else:
        save_released(options.out, weights)
    sys.stdout.write(f"wrote {options.out}\n")
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dpot_scale.weights",
        description="Look into DPOT weights files and convert them. Every key is accounted for, "
        "and no code in a file is ever run.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    inspect = commands.add_parser("inspect", help=COMMANDS["inspect"])
    inspect.add_argument("file", type=Path, help="a released .pth or a .safetensors export")
    for name, source, target in (
        ("import", "released .pth", ".safetensors export"),
        ("export", ".safetensors export", "released .pth"),
    ):
        command = commands.add_parser(name, help=COMMANDS[name])
        command.add_argument("file", type=Path, help=f"the {source} to read")
        command.add_argument("--out", type=Path, required=True, help=f"the {target} to write")
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
