"""What a check found, with a verdict and what to do, and many of them as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dpot_scale.terminal import table

Verdict = Literal["ok", "note", "stops"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Verdict  # stops: a run would not start, end early or compute something else
    found: str
    to_do: str = ""  # unless all is well
    node: str = ""  # where; empty: everywhere


def merged(by_node: Sequence[tuple[str, Sequence[Finding]]]) -> list[Finding]:
    """Return the findings of several nodes; what all of them found alike is said once.

    Args:
        by_node: The name of each node and what it found, in one order of checks.
    """
    rows: dict[Finding, list[str]] = {}
    for node, findings in by_node:
        for finding in findings:
            rows.setdefault(finding, []).append(node)
    order = {finding.check: i for _, findings in by_node for i, finding in enumerate(findings)}
    lines = [
        Finding(f.check, f.verdict, f.found, f.to_do, "" if len(nodes) == len(by_node) else node)
        for f, nodes in rows.items()
        for node in (nodes[:1] if len(nodes) == len(by_node) else nodes)
    ]
    return sorted(lines, key=lambda line: order[line.check])


def report(findings: Sequence[Finding]) -> str:
    """Return the table of all findings, and below it what to do."""
    words = [
        (f"{one.check} on {one.node}" if one.node else one.check, one.verdict, one.found)
        for one in findings
    ]
    lines = [table(("check", "verdict", "found"), words, left=3)]
    advice = dict.fromkeys(f"{one.check}: {one.to_do}" for one in findings if one.to_do)
    if advice:
        lines += ["", "What to do:", *(f"- {line}" for line in advice)]
    stopped = sum(one.verdict == "stops" for one in findings)
    lines += ["", f"{stopped} of these would stop a run" if stopped else "nothing stops a run"]
    return "\n".join(lines)
