"""A plan as a table for people and as JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.cost import DEVICES, UNNAMED_CPU, UNNAMED_GPU, DeviceName
from dpot_scale.scaling.makespan import makespan
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.rates import read_rates
from dpot_scale.scaling.rules import describe
from dpot_scale.scaling.speeds import cores, known_speeds, speeds_like
from dpot_scale.terminal import clock, duration, table

HOUR = 3600.0
# Of the time of a trial: messages that take less, or the host, are not worth a column.
WORTH_A_COLUMN = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a plan is priced for."""

    device: DeviceName | None = None  # None: this machine
    devices: int | None = None  # in all; None: those of one trial, or the cores of this machine
    price: float | None = None  # of a device hour, in any currency

    def at_a_time(self, sweep: SweepConfig) -> int:
        """Return how many trials there is room for.

        Raises:
            ConfigError: there is none for a single one.
        """
        resources = sweep.resources
        if self.devices is not None:
            if self.devices < resources.least_workers:
                raise ConfigError(
                    f"a trial has {resources.workers_in_words} workers, and "
                    f"--devices={self.devices} holds fewer; give more, or lower resources.workers"
                )
            return max(1, self.devices // resources.most_workers)
        if self.device is not None or resources.gpus_per_worker == 1:
            return 1
        return max(1, cores() // (resources.most_workers * resources.cpus_per_worker))


THIS_MACHINE = Terms()


def plan_table(sweep: SweepConfig, trials: Sequence[Trial], terms: Terms = THIS_MACHINE) -> str:
    """Return the plan as text: one line per trial, and the totals.

    Args:
        sweep: The sweep, its kind of workers settled.
        trials: Its plan.
        terms: What it was priced for.
    """
    resources = sweep.resources
    sends = any(t.sending_seconds > WORTH_A_COLUMN * t.seconds for t in trials)
    launches = any(t.host_seconds > WORTH_A_COLUMN * t.seconds for t in trials)
    header = ["trial", "parameters", "windows", "steps", "FLOPs", "memory/worker", "time"]
    header += ["network"] * sends + ["host"] * launches + ["device-h"]
    header += ["cost"] * (terms.price is not None)
    rows = []
    for trial in trials:
        cells = [trial.id, f"{trial.parameters:,}", f"{trial.run.windows:,}"]
        cells += [f"{trial.run.steps:,}", f"{trial.train_flops:.2e}"]
        cells += [f"{trial.worker_gib:.2f} GiB", clock(trial.seconds)]
        cells += [clock(trial.sending_seconds)] * sends + [clock(trial.host_seconds)] * launches
        cells.append(f"{device_hours(sweep, trial):.3g}")
        if terms.price is not None:
            cells.append(f"{device_hours(sweep, trial) * terms.price:,.2f}")
        rows.append(cells)
    kind = {"auto": "", 0: "CPU ", 1: "GPU "}[resources.gpus_per_worker]
    workers = f"{resources.workers_in_words} {kind}worker{'s' * (resources.most_workers > 1)}"
    lines = [
        f"sweep {sweep.name}: {len(trials)} trial{'s' * (len(trials) != 1)} of {workers} "
        f"each, {trials[0].run.engine.deepspeed.name}",
        "",
        table(header, rows),
        "",
        *_totals(sweep, trials, terms),
        *rule_lines(sweep, trials),
    ]
    return "\n".join(lines)


def _totals(sweep: SweepConfig, trials: Sequence[Trial], terms: Terms) -> list[str]:
    flops = sum(trial.own_flops for trial in trials)
    seconds = sum(trial.seconds for trial in trials)
    lines = [
        f"total {flops:.2e} FLOPs, about {duration(seconds)} one after another "
        f"({_speed(sweep, trials, terms)})"
    ]
    hours = sum(device_hours(sweep, trial) for trial in trials)
    cost = "" if terms.price is None else f", {hours * terms.price:,.2f} at {terms.price:g} each"
    at_a_time = terms.at_a_time(sweep)
    lines.append(
        f"{hours:.3g} device hours{cost}; with {at_a_time} at a time it takes "
        f"{duration(makespan(trials, at_a_time))}, and no number of devices less than "
        f"{duration(makespan(trials, len(trials)))}"
    )
    if sweep.resources.gpus_per_worker == "auto":
        lines.append(
            "memory is that of CPU workers; each gets a GPU where the cluster has enough "
            "(resources.gpus_per_worker=auto)"
        )
    return lines


def rule_lines(sweep: SweepConfig, trials: Sequence[Trial]) -> list[str]:
    """Return each rule in one line, with its source."""
    lines = describe(sweep.rules)
    probe = [trial for trial in trials if trial.role == "probe"]
    if any(trial.role == "unprobed" for trial in trials):
        hours = sum(device_hours(sweep, trial) for trial in probe)
        lines.append(
            f"optim.lr is probed first, by {len(probe)} trials for {hours:.3g} device hours; the "
            "ids of all others follow from what they find"
        )
    elif sweep.rules.probe is not None and len(probe) < len(trials):
        lines.append(f"{read_rates(sweep.directory)}")
    return lines


def _speed(sweep: SweepConfig, trials: Sequence[Trial], terms: Terms) -> str:
    """Say where the speeds of a plan come from."""
    here = known_speeds(sweep.run.output, sweep.resources) if terms.device is None else []
    measured = [bool(speeds_like(trial.run, here)) for trial in trials]
    if all(measured):
        return "as fast as trials have trained on this machine"
    if any(measured):
        return (
            "as fast as trials of their family have trained on this machine, others "
            f"{_assumption(sweep, terms)}"
        )
    return _assumption(sweep, terms)


def _assumption(sweep: SweepConfig, terms: Terms) -> str:
    """Say which speed is taken where none was measured."""
    assumed, engine = sweep.resources.assumed_flops_per_second, sweep.run.engine
    if terms.device is None and assumed is not None:
        return f"assuming {assumed:.1e} FLOP/s per worker"
    kind = terms.device or (UNNAMED_GPU if sweep.resources.gpus_per_worker == 1 else UNNAMED_CPU)
    device = DEVICES[kind]
    share = device.reached(compiled=engine.compile)
    speed = share * device.peak[engine.deepspeed.dtype]
    if not device.is_gpu:
        return f"assuming {speed:.1e} FLOP/s per worker"
    return f"on {kind} at {share:.0%} of its peak"


def device_hours(sweep: SweepConfig, trial: Trial) -> float:
    """Return the hours of a trial, summed over its workers: over the most that it may have."""
    return trial.seconds * sweep.resources.most_workers / HOUR


def plan_json(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    terms: Terms = THIS_MACHINE,
    choice: str | None = None,
) -> str:
    """Return the plan as JSON: the totals, and every trial with its factors and its price.

    Args:
        sweep: The sweep, its kind of workers settled.
        trials: Its plan, or what of it was chosen for a budget.
        terms: What it was priced for.
        choice: Why these trials were chosen.
    """
    price = terms.price

    def of_trial(trial: Trial) -> dict[str, Any]:
        hours = device_hours(sweep, trial)
        return {
            "id": trial.id,
            "label": trial.label,
            "role": trial.role,
            "factors": dict(trial.factors),
            "after": None
            if trial.after is None
            else {"trial": trial.after.trial, "step": trial.after.step},
            "family": trial.run.model.family,
            "parameters": trial.parameters,
            "block_parameters": trial.block_parameters,
            "windows": trial.run.windows,
            "steps": trial.run.steps,
            "seed": trial.run.seed,
            "flops": trial.train_flops,
            "own_flops": trial.own_flops,
            "memory_gib": trial.worker_gib,
            "seconds": trial.seconds,
            "network_seconds": trial.sending_seconds,
            "host_seconds": trial.host_seconds,
            "device_hours": hours,
            "cost": None if price is None else hours * price,
        }

    hours = sum(device_hours(sweep, trial) for trial in trials)
    content = {
        "sweep": sweep.name,
        "device": terms.device,
        "workers": sweep.resources.workers,
        "strategy": trials[0].run.engine.deepspeed.name,
        "trials_at_a_time": terms.at_a_time(sweep),
        "flops": sum(trial.own_flops for trial in trials),
        "device_hours": hours,
        "cost": None if price is None else hours * price,
        "seconds": makespan(trials, terms.at_a_time(sweep)),
        "critical_path_seconds": makespan(trials, len(trials)),
        "rules": rule_lines(sweep, trials),
        "choice": choice,
        "trials": [of_trial(trial) for trial in trials],
    }
    return json.dumps(content, indent=2)
