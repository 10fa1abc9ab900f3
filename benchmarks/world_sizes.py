"""How far from an undisturbed run is one that goes on with other ranks, or under another stage?

A training is killed after each part, with SIGKILL, and started again as another one would be: with
another number of ranks, or another stage of ZeRO. Its losses are compared with those of a training
of two ranks that nothing disturbs. Those that train on other ranks, or under another stage, from
the first step on are compared, too: so much comes of sums in another order alone.

    python benchmarks/world_sizes.py [--steps 40]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
from compare_losses import CONFIG, REPOSITORY, STORE, Curves, ended, machine, read, started

from dpot_scale.checkpoints.checkpoint import saved_step

PRESETS = REPOSITORY / "deepspeed_configs"
GLOBAL_BATCH = 12  # one, two and three ranks divide it
Part = tuple[int, str]  # ranks, and the name of a strategy without its precision

STORIES: dict[str, Sequence[Part]] = {
    "2 -> 1 -> 2 -> 3 ranks, stage 3": [(2, "zero3"), (1, "zero3"), (2, "zero3"), (3, "zero3")],
    "2 ranks, stage 3 -> 1 -> 3": [(2, "zero3"), (2, "zero1"), (2, "zero3")],
    "2 -> 2 ranks, stage 3": [(2, "zero3"), (2, "zero3")],
    "1 rank, stage 3, undisturbed": [(1, "zero3")],
    "3 ranks, stage 3, undisturbed": [(3, "zero3")],
    "2 ranks, stage 1, undisturbed": [(2, "zero1")],
}


def main() -> None:
    """Print a row for each story and precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--steps", type=int, default=40)
    steps = parser.parse_args().steps
    print(machine())
    print("| precision | training | losses differ by | gradient norms by | resumed at |")
    print("|---|---|--:|--:|---|")
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            expected, _ = told([(2, "zero3")], precision, steps, folder / "undisturbed")
            for number, (name, parts) in enumerate(STORIES.items()):
                found, resumed = told(parts, precision, steps, folder / str(number))
                differences = [largest(expected[key], found[key]) for key in found]
                figures = " | ".join(f"{difference:.1e}" for difference in differences)
                at = ", ".join(map(str, resumed)) or "-"
                print(f"| {precision} | {name} | {figures} | {at} |", flush=True)


def told(
    parts: Sequence[Part], precision: str, steps: int, output: Path
) -> tuple[Curves, list[int]]:
    """Train in parts; return what the run recorded, and the steps at which it went on."""
    resumed = []
    for number, (ranks, stage) in enumerate(parts, start=1):
        overrides = [
            f"data.root={STORE}",
            f"windows={GLOBAL_BATCH * steps}",
            f"batch.global_batch={GLOBAL_BATCH}",
            f"engine.deepspeed={strategy(stage, precision, output)}",
            "checkpoint.every=5",
        ]
        if number > 1:
            resumed.append(saved_step(output / "run" / "checkpoints"))
        training = started(str(CONFIG), overrides, output=output, ranks=ranks)
        if number == len(parts):
            return ended(training, output), resumed
        until = steps * number // len(parts)
        while last_step(output / "run") < until:
            if training.poll() is not None:
                raise RuntimeError((output / "log").read_text())
            time.sleep(0.05)
        process = psutil.Process(training.pid)
        for one in [process, *process.children(recursive=True)]:
            one.kill()
        training.wait()
    raise AssertionError(parts)


def strategy(stage: str, precision: str, folder: Path) -> str:
    """Return the name of a strategy, or the file of one: there is no preset of stage 1 in fp32."""
    name = f"{stage}_{precision}"
    if (PRESETS / f"{name}.json").exists():
        return name
    settings = json.loads((PRESETS / f"{stage}_bf16.json").read_text(encoding="utf-8"))
    del settings["bf16"], settings["data_types"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder / f"{name}.json")


def last_step(directory: Path) -> int:
    """Return the newest step that a run has recorded."""
    if not (directory / "metrics.jsonl").exists():
        return 0
    return max(read(directory)["train/loss"], default=0)


def largest(expected: Mapping[int, float], found: Mapping[int, float]) -> float:
    """Return the largest relative difference of a metric at a step."""
    assert expected.keys() == found.keys()
    return max(abs(found[step] / value - 1) for step, value in expected.items())


if __name__ == "__main__":
    main()
