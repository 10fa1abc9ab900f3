"""What there is to run: `python -m dpot_scale`."""

import sys
from collections.abc import Sequence

from dpot_scale.config.sentences import nearest
from dpot_scale.errors import USER_ERROR_EXIT_CODE
from dpot_scale.terminal import print_error, print_line

ENTRIES = {
    "prepare": "make datasets: solve equations, import published files, list and verify",
    "train": "train one model (`deepspeed dpot_scale/train.py` on several GPUs)",
    "sweep": "train a ladder of model sizes through Ray and fit a scaling law",
    "evaluate": "score weights on held-out trajectories",
    "weights": "look into weights, convert and register them, take them out of runs",
    "mirror": "send to MLflow what it lacks of runs and sweeps",
    "doctor": "check a machine or a cluster, and say what to do",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the entries; a word that was meant as one is answered with the command."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and not arguments[0].startswith("-"):
        word, *rest = arguments
        hint = (
            f"`{' '.join(['python -m dpot_scale.' + word, *rest])}`"
            if word in ENTRIES
            else f"one of: {', '.join(ENTRIES)}{nearest(word, ENTRIES)}"
        )
        print_error(f"{word!r} is no argument of dpot_scale; run {hint}")
        return USER_ERROR_EXIT_CODE
    lines = [f"  python -m dpot_scale.{name:<10}{text}" for name, text in ENTRIES.items()]
    print_line("\n".join([*lines, "", "Each says more with --help."]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
