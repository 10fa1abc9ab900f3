"""All checks: alone, on the ranks of a launcher, or on the workers of a Ray cluster."""

import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypedDict

from torch import distributed as dist

from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.diagnosis.finding import Finding, merged
from dpot_scale.diagnosis.machine import data, machine_findings, storage, versions
from dpot_scale.diagnosis.needs import Needs, needs_of
from dpot_scale.diagnosis.patience import PATIENCE, REACH, within_patience
from dpot_scale.diagnosis.ranks import ranks_findings
from dpot_scale.diagnosis.steps import ten_steps
from dpot_scale.diagnosis.tracking import mlflow
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import World, join_ranks, start_world
from dpot_scale.errors import UserError
from dpot_scale.runs.agreement import sees

SAME_VERSIONS = "install the same versions on every node, from one image or environment"
DRIVER = ".doctor_driver"  # what the driver writes into the folder of results


class Task(TypedDict):
    """What the driver sends to the workers of a Ray cluster."""

    run: RunConfig
    token: str  # what the driver has written into the folder of results


@lost_peers_named(PATIENCE, REACH, limit=None)
def examine(config: RunConfig) -> list[Finding]:
    """Make all checks and return what they find. Collective; the main rank has all of it.

    Args:
        config: A run that is to be trained, its paths absolute.
    """
    with within_patience("joining the other ranks"):
        world = join_ranks(PATIENCE)
        nodes = _of_nodes(lambda: machine_findings(config), world)
        _compare_versions(nodes)
    findings = merged(nodes)
    if not stopped(findings):
        needs, problem = _needs(config, world)
        findings += problem
        with within_patience("comparing what the ranks compute and see"):
            findings += ranks_findings(config, world, needs)
    computes = not stopped(findings)  # data may be brought later
    findings += merged(_of_nodes(lambda: [data(config)], world))
    if world.is_main:
        findings.append(mlflow(config.tracking, len(nodes)))
    if computes:
        findings.append(ten_steps(start_world(patience=PATIENCE)))
    return findings


def stopped(findings: list[Finding]) -> bool:
    """Return whether something would stop a run."""
    return any(finding.verdict == "stops" for finding in findings)


def _needs(config: RunConfig, world: World) -> tuple[Needs | None, list[Finding]]:
    """Return what a run needs, or what is wrong with its config on these ranks."""
    try:
        return needs_of(config, world), []
    except UserError as error:
        to_do = "a run of this config would stop with that sentence; its needs are not compared"
        return None, [Finding("config", "note", str(error), to_do)]


def _of_nodes(
    look: Callable[[], Iterable[Finding]], world: World
) -> list[tuple[str, list[Finding]]]:
    """Let the first rank of each node look at something; return what each node found."""
    mine = list(look()) if world.local_rank == 0 else []
    everywhere: list[tuple[str, list[Finding]]] = [("", [])] * world.world_size
    dist.all_gather_object(everywhere, (socket.gethostname(), mine))
    return [(node, findings) for node, findings in everywhere if findings]


def _compare_versions(nodes: list[tuple[str, list[Finding]]]) -> None:
    """Let versions, which each node found first, stop a run where they differ."""
    if len({findings[0].found for _, findings in nodes}) > 1:
        for _, findings in nodes:
            findings[0] = replace(findings[0], verdict="stops", to_do=SAME_VERSIONS)


def examine_cluster(config: RunConfig, resources: ResourcesConfig) -> list[Finding]:
    """Make all checks on workers of the Ray cluster, or of one that is started here.

    The driver of a sweep keeps its journal, its report and its run in MLflow, so this process is
    looked at as well.

    Args:
        config: A run that is to be trained, its paths absolute.
        resources: The workers.

    Raises:
        UserError: there is no cluster, or it is too small.
    """
    from dpot_scale.scaling.launcher import on_workers

    here = f"{socket.gethostname()} (driver)"
    written = storage(config.output)
    if written.verdict == "stops":
        return [replace(written, node=here)]
    task: Task = {"run": config, "token": secrets.token_hex(8)}
    (config.output / DRIVER).write_text(task["token"], encoding="utf-8")
    try:
        folder = config.output / ".doctor"
        found: list[Finding] = on_workers(
            _examine_worker, task, resources, folder, patience=PATIENCE
        )
    finally:
        (config.output / DRIVER).unlink(missing_ok=True)
    return found + [replace(one, node=here) for one in _of_driver(config, found)]


def _examine_worker(task: Task) -> list[Finding]:
    found, run = examine(task["run"]), task["run"]
    if sees(run.output / DRIVER, task["token"]):
        return [*found, Finding("driver's storage", "ok", f"workers see it: {run.output}")]
    to_do = "set `output` to a folder that the node where sweeps are started shares with the others"
    blind = f"{socket.gethostname()} does not see in {run.output} what the driver wrote there"
    return [*found, Finding("driver's storage", "stops", blind, to_do)]


def _of_driver(config: RunConfig, of_workers: list[Finding]) -> list[Finding]:
    """Return what differs in this process from what its workers have found."""
    mine, tracked = versions(), mlflow(config.tracking)
    if any(one.check == mine.check and one.found != mine.found for one in of_workers):
        mine = replace(mine, verdict="stops", to_do=SAME_VERSIONS)
    known = {(one.check, one.found) for one in of_workers}
    return [one for one in (mine, tracked) if (one.check, one.found) not in known]
