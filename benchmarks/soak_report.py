"""What benchmarks/soak.py says and writes of its rounds."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from soak_faults import FAULTS
from soak_leaks import Growth, Held
from soak_round import Outcome


def line(outcome: Outcome) -> str:
    """Return a round in a line, with its differences below."""
    faults = ", ".join(f"{one.fault} at {one.step}" for one in outcome.caused)
    how = "equal" if not outcome.differences else "DIFFERENT"
    said = "".join(f"\n  {one}" for one in outcome.differences)
    return (
        f"round {outcome.round.number} ({outcome.round.launcher}), {outcome.minutes:.1f} min: "
        f"{faults}; {len(outcome.codes)} attempts, {outcome.made_again} steps made again: {how}"
        f"{said}"
    )


def summary(
    outcomes: Sequence[Outcome], first: Held, growths: Sequence[Growth]
) -> tuple[str, bool]:
    """Return the tables of a soak, and whether nothing differed.

    Args:
        outcomes: Of its rounds.
        first: What there was before them.
        growths: Of the processes that lived long.
    """
    wrong = [one for outcome in outcomes for one in outcome.differences]
    wrong += [f"{one.name} grew" for one in growths if one.is_leak]
    caused_in_all = sum(len(outcome.caused) for outcome in outcomes)
    attempts = sum(len(outcome.codes) for outcome in outcomes)
    again = sum(outcome.made_again for outcome in outcomes)
    lines = [
        *("", *table_of_faults(outcomes)),
        *("", *table_of_what_is_held(outcomes, first)),
        *("", *table_of_growth(growths)),
        "",
        f"{len(outcomes)} rounds, {attempts} attempts, {caused_in_all} faults, {again} steps made "
        f"again, {len(wrong)} differences",
        *wrong,
    ]
    return "\n".join(lines), not wrong


def table_of_faults(outcomes: Sequence[Outcome]) -> list[str]:
    """Return how often each kind was caused, and what it cost; then which never was."""
    lines = [
        "| fault | times | steps made again, most | s until further, median | most |",
        "|---|--:|--:|--:|--:|",
    ]
    never = []
    for fault in FAULTS:
        caused = [one for outcome in outcomes for one in outcome.caused if one.fault == fault]
        seconds = [one.seconds for one in caused if one.seconds is not None]
        times = f"{median(seconds):.1f} | {max(seconds):.1f}" if seconds else "- | -"
        again = max((one.made_again for one in caused), default="-")
        lines.append(f"| {fault} | {len(caused)} | {again} | {times} |")
        never += [] if caused else [fault]
    return [*lines, "", f"never caused: {', '.join(never) or 'none'}"]


def table_of_what_is_held(outcomes: Sequence[Outcome], first: Held) -> list[str]:
    """Return what there was between the rounds."""
    heads = [*(f"MiB of {name}" for name in first.mib), "processes", "open files"]
    heads = ["after round", "minute", *heads, "in /tmp", "in /dev/shm"]
    lines = [f"| {' | '.join(heads)} |", f"|{'--:|' * len(heads)}"]
    looks = [("-", 0.0, first)]
    looks += [(str(one.round.number), one.minutes, one.held) for one in outcomes if one.held]
    for number, minutes, now in looks:
        numbers = [f"{mib:.0f}" for mib in now.mib.values()]
        numbers += map(str, (now.processes, now.files, now.temporary, now.shared))
        lines.append(f"| {number} | {minutes:.1f} | {' | '.join(numbers)} |")
    return lines


def table_of_growth(growths: Sequence[Growth]) -> list[str]:
    """Return what processes that lived long had in each part of their life."""
    lines = ["| lived on | minutes | MiB | open files |", "|---|--:|--:|--:|"]
    for growth in sorted(growths, key=lambda one: -one.mib[-1]):
        mib, files = (" ".join(f"{one:.0f}" for one in part) for part in (growth.mib, growth.files))
        lines.append(f"| {growth.name} | {growth.minutes:.0f} | {mib} | {files} |")
    return lines


def write(path: Path, seed: int, outcomes: Sequence[Outcome], growths: Sequence[Growth]) -> None:
    """Write all that was found."""
    found = {
        "seed": seed,
        "rounds": [recorded(one) for one in outcomes],
        "lived_on": [one._asdict() | {"is_leak": one.is_leak} for one in growths],
    }
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def recorded(outcome: Outcome) -> dict[str, object]:
    """Return a round as JSON values."""
    planned = outcome.round._asdict()
    planned["faults"] = [fault._asdict() for fault in outcome.round.faults]
    left_out = [fault._asdict() for fault in outcome.left_out]
    held = outcome.held._asdict() if outcome.held else None
    made_again = {"made_again": outcome.made_again}
    return asdict(outcome) | {"round": planned, "left_out": left_out, "held": held} | made_again
