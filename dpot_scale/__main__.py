"""What there is to run: `python -m dpot_scale`."""

import sys

from dpot_scale.config.sentences import nearest
from dpot_scale.errors import USER_ERROR_EXIT_CODE

ENTRIES = {
    "prepare": "make datasets: solve equations, import published files, list and verify",
    "train": "train one model (`deepspeed dpot_scale/train.py` on several GPUs)",
    "sweep": "train a ladder of model sizes through Ray and fit a scaling law",
    "evaluate": "score weights on held-out trajectories",
    "weights": "look into weights, convert them, take them out of runs",
}


def main(arguments: list[str]) -> int:
    """Print the entries; a word that was to be one is answered with the command."""
    if arguments and not arguments[0].startswith("-"):
        word, *rest = arguments
        hint = (
            f"`{' '.join(['python -m dpot_scale.' + word, *rest])}`"
            if word in ENTRIES
            else f"one of: {', '.join(ENTRIES)}{nearest(word, ENTRIES)}"
        )
        sys.stderr.write(f"error: {word!r} is no argument of dpot_scale; run {hint}\n")
        return USER_ERROR_EXIT_CODE
    lines = [f"  python -m dpot_scale.{name:<10}{text}" for name, text in ENTRIES.items()]
    sys.stdout.write("\n".join([*lines, "", "Each says more with --help."]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
