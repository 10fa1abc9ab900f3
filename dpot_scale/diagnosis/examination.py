"""All checks: alone, on the ranks of a launcher, or on the workers of a Ray cluster."""

import socket
from typing import TypedDict

from torch import distributed as dist

from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import ResourcesConfig
from dpot_scale.diagnosis.finding import Finding, merged
from dpot_scale.diagnosis.machine import machine_findings
from dpot_scale.diagnosis.ranks import ranks_findings
from dpot_scale.diagnosis.steps import ten_steps
from dpot_scale.diagnosis.tracking import mlflow
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import PATIENCE, World, join_ranks, start_world


class Task(TypedDict):
    """What the driver sends to the workers of a Ray cluster."""

    run: RunConfig


@lost_peers_named(PATIENCE, "start the doctor again")
def examine(config: RunConfig) -> list[Finding]:
    """Make all checks and return what they find. Collective; the main rank has all of it.

    Args:
        config: A run that is to be trained, its paths absolute.
    """
    world = join_ranks()
    nodes = _of_nodes(config, world)
    findings = merged(nodes)
    if not stopped(findings):
        findings += ranks_findings(config.output, world)
    if world.is_main:
        findings.append(mlflow(config.tracking, len(nodes)))
    if not stopped(findings):
        findings.append(ten_steps(start_world()))
    return findings


def stopped(findings: list[Finding]) -> bool:
    """Return whether something would stop a run."""
    return any(finding.verdict == "stops" for finding in findings)


def _of_nodes(config: RunConfig, world: World) -> list[tuple[str, list[Finding]]]:
    """Let the first rank of each node look at it, and compare the versions of the nodes."""
    mine = list(machine_findings(config)) if world.local_rank == 0 else []
    everywhere: list[tuple[str, list[Finding]]] = [("", [])] * world.world_size
    dist.all_gather_object(everywhere, (socket.gethostname(), mine))
    nodes = [(node, findings) for node, findings in everywhere if findings]
    if len({findings[0].found for _, findings in nodes}) > 1:
        to_do = "install the same versions on every node, from one image or environment"
        for _, findings in nodes:
            findings[0] = Finding("versions", "stops", findings[0].found, to_do)
    return nodes


def examine_cluster(config: RunConfig, resources: ResourcesConfig) -> list[Finding]:
    """Make all checks on workers of the Ray cluster, or of one that is started here.

    Args:
        config: A run that is to be trained, its paths absolute.
        resources: The workers.

    Raises:
        UserError: there is no cluster, or it is too small.
    """
    from dpot_scale.scaling.launcher import on_workers

    task: Task = {"run": config}
    found: list[Finding] = on_workers(_examine_worker, task, resources, config.output / ".doctor")
    return found


def _examine_worker(task: Task) -> list[Finding]:
    return examine(task["run"])
