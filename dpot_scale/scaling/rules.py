"""Learning rate, batch and weight decay of a point, where rules say how they follow its size.

Pure: no torch here. The transfer of learning rates over widths is `OptimConfig.for_width`, as in
any run; a rule only says at which width the rates were found.
"""

from math import lcm
from typing import Any, Literal

from dpot_scale.config.design import Power, Rules
from dpot_scale.config.optim import WIDTH_POWER
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.families import count_parameters

LEARNING_RATE, BATCH, WEIGHT_DECAY = "optim.lr", "batch.global_batch", "optim.weight_decay"
OF_A_PROBE = (LEARNING_RATE, "optim.muon_lr", "optim.reference_width")  # what it sets
Values = dict[str, Any]  # by dotted keys of a run
# Rules that follow the size of a model, and those that follow the length of its training.
Stage = Literal["size", "length"]
STAGES: tuple[Stage, ...] = ("size", "length")


def values_beneath(rules: Rules) -> Values:
    """Return what rules say of every point, for the design to be laid over it."""
    transfer = rules.lr.width_transfer if rules.lr else None
    if transfer is None:
        return {}
    values: Values = {"optim.reference_width": transfer.at}
    if transfer.lr is not None:
        values["optim.lr"] = transfer.lr
    if transfer.muon_lr is not None:
        values["optim.muon_lr"] = transfer.muon_lr
    return values


def power_rules(rules: Rules, stage: Stage) -> dict[str, Power]:
    """Return the power laws by the field that they set.

    Args:
        rules: The rules.
        stage: Those that follow the size of the model, or those that follow its training.
    """
    found = {
        LEARNING_RATE: rules.lr.power if rules.lr else None,
        BATCH: rules.batch,
        WEIGHT_DECAY: rules.weight_decay,
    }
    return {
        key: rule
        for key, rule in found.items()
        if rule is not None and (rule.of == "windows") == (stage == "length")
    }


def refuse_values_of_rules(sweep: SweepConfig) -> None:
    """Refuse a design that gives values to a field that a power law sets: these would be lost.

    Raises:
        ConfigError: there is such a field.
    """
    ruled = {f"run.{key}" for stage in STAGES for key in power_rules(sweep.rules, stage)}
    if sweep.rules.probe is not None:
        ruled |= {f"run.{key}" for key in OF_A_PROBE}
    for entry in sweep.factors:
        changes = [entry.grid or {}, *(entry.ablation or {}).values()]
        lost = next((key for keys in changes for key in keys if key in ruled), None)
        if lost is not None:
            raise ConfigError(
                f"design: a rule sets {lost}, in place of the values that `{entry.kind}` gives it; "
                "remove one of the two"
            )


def follow_rules(sweep: SweepConfig, run: RunConfig, stage: Stage) -> Values:
    """Return the values that a run gets by the rules.

    Raises:
        ConfigError: a rule follows the width, and the model has none.
    """
    rules = power_rules(sweep.rules, stage)
    values: Values = {key: predicted(rule, run) for key, rule in rules.items()}
    if LEARNING_RATE in values:
        # The run transfers its rate from the reference width to its own; the rule's is of its own.
        values[LEARNING_RATE] *= run.optim.lr / run.settled_optim.lr
    if BATCH in values:
        values[BATCH] = shared_batch(values[BATCH], run, sweep.resources)
        values["windows"] = whole_batches(run.windows, values[BATCH])
    return values


def predicted(rule: Power, run: RunConfig) -> float:
    """Return value x (what it follows / at)^power.

    Raises:
        ConfigError: it follows the width, and the model has none.
    """
    match rule.of:
        case "width":
            width = run.model.own_width()
            if width is None:
                raise ConfigError(f"a rule follows the width, and a {run.model.family} has none")
            followed = width
        case "parameters":
            followed = count_parameters(run.model).total
        case "windows":
            followed = run.windows
    return float(rule.value * (followed / rule.at) ** rule.power)


def describe(rules: Rules) -> list[str]:
    """Return each rule in one line, with its source."""
    lines = []
    if rules.lr is not None and rules.lr.width_transfer is not None:
        transfer = rules.lr.width_transfer
        rates = {"lr": transfer.lr, "muon_lr": transfer.muon_lr}
        given = [f"{name} {rate:g}" for name, rate in rates.items() if rate is not None]
        lines.append(
            f"rates: {' and '.join(given) or 'those of the run'} at width {transfer.at}, times "
            f"({transfer.at} / width)^{WIDTH_POWER:g}: benchmarks/recipes.md"
        )
    for stage in STAGES:
        for key, rule in power_rules(rules, stage).items():
            law = f"{rule.value:g} ({rule.of} / {rule.at:g})^{rule.power:g}"
            source = f": {rule.source}" if rule.source else ""
            lines.append(f"{key} = {law}{source}")
    return lines


def shared_batch(wanted: float, run: RunConfig, resources: ResourcesConfig) -> int:
    """Return the nearest batch that the least and the most workers can share, in windows."""
    micro_batch = 1 if run.batch.micro_batch == "auto" else run.batch.micro_batch
    share = micro_batch * lcm(resources.least_workers, resources.most_workers)
    return max(1, round(wanted / share)) * share


def whole_batches(windows: int, global_batch: int) -> int:
    """Return the nearest length that is a whole number of batches."""
    return max(1, round(windows / global_batch)) * global_batch
