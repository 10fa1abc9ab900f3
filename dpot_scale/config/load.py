"""From a preset or YAML file and `key.sub=value` overrides to a validated config.

A YAML file may say `extends: NAME_OR_PATH`: its keys are then laid over that other file. Every
mistake becomes one `ConfigError` that names the key, the value and the nearest known name.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

import yaml
from pydantic import ValidationError

from dpot_scale.config.base import Section
from dpot_scale.config.data import ArrayLayout, SuiteConfig
from dpot_scale.config.design import kind_of_ladder
from dpot_scale.config.model import laid_over
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sentences import nearest, sentence
from dpot_scale.config.strategy import read_strategy
from dpot_scale.config.sweep import LENGTHS as SWEEP_LENGTHS
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.config.text import parse
from dpot_scale.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"

SUFFIXES = {".yaml", ".yml"}
LENGTHS = ("warmup", "decay")  # one of the two keys of a length replaces the other
REPLACED_WHOLE = ("weights", "trajectories", "ladder", "deepspeed", "suite", *LENGTHS)
DEFAULT = "quickstart"
FAMILY_KEYS = (".model.family=", ".run.model.family=")

# How `start.source` is spelled in older configs and commands.
OLDER_SOURCE = "initialize_from"

Kind = Literal["run", "sweep", "suite"]
# Of a config: keys at its top level that only another kind has there, which, and its entry.
OTHER_KIND: dict[Kind, tuple[tuple[str, ...], str, str]] = {
    "run": (("ladder", "design", "run"), "a sweep", "sweep"),
    "sweep": (("batch", "data", "model"), "a run", "train"),
}
Raw = dict[str, Any]  # a YAML mapping before validation
S = TypeVar("S", bound=Section)


def load_run(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run that a preset name or YAML path describes, with overrides applied."""
    raw = _read("run", source)
    _require_kind("run", raw, source)
    _apply(raw, overrides)
    inline(raw)
    return validate(RunConfig, raw, source, overrides)


def load_sweep(source: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Return the sweep that a preset name or YAML path describes, with overrides applied.

    `run` may extend a run preset; each ladder entry is laid over `run.model`.
    """
    raw = _read("sweep", source)
    _require_kind("sweep", raw, source)
    if isinstance(raw.get("run"), dict):
        raw["run"] = _extend("run", raw["run"])
        # A trial is named after its model and length, so the shared part needs no name.
        raw["run"].setdefault("name", raw.get("name", source))
    _apply(raw, overrides)
    _complete_ladders(raw)
    inline(raw.get("run"))
    return validate(SweepConfig, raw, source, overrides)


def is_of_sweep(source: str, extended_by: tuple[Path, ...] = ()) -> bool:
    """Return whether a preset name or YAML path is that of a sweep and not of a run."""
    if is_preset(source):
        runs, sweeps = presets("run"), presets("sweep")
        is_meant = bool(nearest(source, sweeps)) and not nearest(source, runs)  # a typo in one
        return source not in runs and (source in sweeps or is_meant)
    path = Path(os.path.realpath(source))
    raw = _read_yaml(path)
    says_so = any(key in raw for key in OTHER_KIND["run"][0])
    if says_so or "extends" not in raw or path in extended_by:
        return says_so
    return is_of_sweep(str(raw["extends"]), (*extended_by, path))


def load_suite(source: str) -> SuiteConfig:
    """Return the data suite that a preset name or YAML path describes."""
    return validate(SuiteConfig, _read("suite", source), source)


def load_layout(source: str, flags: Mapping[str, Any]) -> ArrayLayout:
    """Return what plain arrays are.

    Args:
        source: Their axes, as NTXYC, or the path of a YAML file.
        flags: Values of other keys, which replace those of the file.
    """
    raw = {"layout": source.upper()} if is_preset(source) else _read_yaml(Path(source))
    place = "of --layout" if is_preset(source) else source
    return validate(ArrayLayout, raw | dict(flags), place)


def _require_kind(kind: Kind, raw: Raw, source: str) -> None:
    """Refuse a config that is meant for another entry, before its keys are found wrong one by one.

    Raises:
        ConfigError: the top level has a key that only the other kind has there.
    """
    keys, is_a, entry = OTHER_KIND[kind]
    found = [key for key in keys if key in raw]
    if found:
        raise ConfigError(
            f"config {source} is that of {is_a}, as it has {found[0]!r}; give it to "
            f"`python -m dpot_scale.{entry}`"
        )


def validate(model: type[S], raw: Raw, source: str, overrides: Sequence[str] = ()) -> S:
    """Return the config that a raw mapping describes, with overrides applied to it before.

    Raises:
        ConfigError: one sentence on the first mistake, naming `source` as the place of it.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        written = {key: text for key, _, text in (o.partition("=") for o in overrides)}
        found = sentence(model, raw, error.errors(), written)
        raise ConfigError(f"config {source}: {found}") from error


def dump(config: Section) -> str:
    """Return a config as YAML that the loaders accept back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def presets(kind: Kind) -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in (PRESETS / kind).glob("*.yaml"))


def says(overrides: Sequence[str], key: str) -> bool:
    """Return whether overrides give a value its own, or that of a whole section it belongs to.

    Args:
        overrides: Each as `key.sub=value`.
        key: A dotted key, as `tracking.mlflow_uri`.
    """
    names = [override.partition("=")[0] for override in overrides]
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def config_hint(word: str) -> str:
    """Return how to say a word that names a config and not a value of one, or an empty string."""
    names_one = Path(word).suffix in SUFFIXES or word in (*presets("run"), *presets("sweep"))
    return f" (did you mean --config {word}?)" if names_one else ""


def is_preset(source: str) -> bool:
    """Return whether a source is the name of a preset and not of a file."""
    return Path(source).suffix not in SUFFIXES


def _read(kind: Kind, source: str, extended_by: tuple[Path, ...] = ()) -> Raw:
    """Read a preset or file, following `extends`."""
    path = Path(source)
    if is_preset(source):
        path = PRESETS / kind / f"{source}.yaml"
        if source not in (known := presets(kind)):
            raise ConfigError(
                f"no {kind} preset is called {source!r}{nearest(source, known)}; "
                f"give a .yaml file or one of: {', '.join(known)}"
            )
    path = Path(os.path.realpath(path))  # of links in a circle too, which cannot be read
    if path in extended_by:
        raise ConfigError(f"config file {path} extends itself; name another in its `extends`")
    return _extend(kind, _read_yaml(path), (*extended_by, path))


def _read_yaml(path: Path) -> Raw:
    try:
        raw = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not a text file") from error
    except ValueError as error:
        raise ConfigError(f"config file {path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {path} must hold a mapping of keys to values")
    for part in (raw, raw.get("run")):
        if isinstance(part, dict) and Path(str(part.get("extends"))).suffix in SUFFIXES:
            part["extends"] = path.parent / str(part["extends"])  # sought beside this file
        _read_older_start(part, path)
    return raw


def _read_older_start(raw: object, path: Path) -> None:
    """Turn `initialize_from: PATH`, as older configs have it, into `start: {source: PATH}`.

    Raises:
        ConfigError: there are both.
    """
    if not isinstance(raw, dict) or OLDER_SOURCE not in raw:
        return
    source, start = raw.pop(OLDER_SOURCE), raw.get("start") or {}
    if source is None or not isinstance(start, dict):
        return
    if "source" in start:
        raise ConfigError(f"config file {path} has {OLDER_SOURCE} and start.source: leave one out")
    raw["start"] = {**start, "source": source}


def _extend(kind: Kind, raw: Raw, extended_by: tuple[Path, ...] = ()) -> Raw:
    """Lay `raw` over the config that its `extends` names, if it names one."""
    if "extends" not in raw:
        return raw
    base = str(raw["extends"])
    return _merge(_read(kind, base, extended_by), {k: v for k, v in raw.items() if k != "extends"})


def _merge(base: Raw, top: Mapping[str, Any]) -> Raw:
    """Return `base` with `top` laid over it, mapping by mapping.

    Mixture weights, ladders, strategies, suites and lengths are replaced as a whole: two have no
    meaningful union.
    """
    merged = _without_designed(base, top)
    for key, value in top.items():
        below = merged.pop(key, None)  # what is laid over comes last, behind another spelling
        if not isinstance(value, dict) or not isinstance(below, dict) or key in REPLACED_WHOLE:
            merged[key] = value
        elif key == "model":
            merged[key] = laid_over(below, value)
        else:
            merged[key] = _merge(below, value)
    return merged


def _without_designed(base: Raw, top: Mapping[str, Any]) -> Raw:
    """Return a copy of `base` without the ladder and windows that the design of `top` replaces."""
    design = top.get("design")
    kinds = {key for entry in design for key in entry} if _is_design(design) else set[str]()
    replaced = {"ladder"} & kinds | ({"windows"} if kinds & {*SWEEP_LENGTHS} else set())
    return {key: value for key, value in base.items() if key not in replaced}


def _is_design(raw: object) -> TypeGuard[list[Raw]]:
    return isinstance(raw, list) and all(isinstance(entry, dict) for entry in raw)


def _apply(raw: Raw, overrides: Sequence[str]) -> None:
    """Write each `key.sub=value` into the raw config; the value is read as YAML."""
    values: dict[str, Any] = {}
    for key, value in map(_key_and_value, overrides):
        values.pop(key, None)  # the newest comes last, behind another spelling of it
        values[key] = value
    kept = _without_designed(raw, values)
    for key in raw.keys() - kept.keys():
        del raw[key]
    lay_values_over(raw, values)


def lay_values_over(raw: Raw, values: Mapping[str, Any]) -> None:
    """Write values into a raw config.

    Args:
        raw: The config, which is changed.
        values: Values by dotted keys, as `optim.lr`.

    Raises:
        ConfigError: a key leads through a value that is no section.
    """
    # A family first: it drops what the model below it has and another family has not.
    for key in sorted(values, key=lambda key: not f".{key}=".endswith(FAMILY_KEYS)):
        *parents, last = key.split(".")
        value = values[key]
        section = _section_of(raw, parents, key)
        if f".{key}=".endswith(FAMILY_KEYS):
            kept = laid_over(section, {last: value})
            section.clear()
            section |= kept
        if parents and parents[-1] in LENGTHS:
            value, last = {last: value}, parents[-1]
            section = _section_of(raw, parents[:-1], key)
        section.pop(last, None)
        section[last] = value


def _key_and_value(override: str) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key:
        hint = config_hint(override)
        raise ConfigError(f"override {override!r} is not of the form key.sub=value{hint}")
    keys = key.split(".")
    if keys[-1] == OLDER_SOURCE and len(keys) <= len(("run", OLDER_SOURCE)):
        keys[-1:] = ["start", "source"]
    try:
        return ".".join(keys), parse(text)
    except ValueError as error:
        raise ConfigError(f"the value of override {override!r} is not valid YAML") from error


def _section_of(raw: Raw, parents: Sequence[str], key: str) -> Raw:
    """Return the section that holds the value of a dotted key, made where it is missing."""
    section = raw
    for parent in parents:
        if section.get(parent) is None:
            section[parent] = {}
        section = section[parent]
        if not isinstance(section, dict):
            raise ConfigError(f"{key!r} cannot be set: {parent!r} is a value, not a section")
    return section


def inline(run: object) -> None:
    """Put the content of the files that a run names into it: what is saved of it is complete."""
    engine, data = (run.get(key) if isinstance(run, dict) else None for key in ("engine", "data"))
    if isinstance(engine, dict) and isinstance(engine.get("deepspeed"), str):
        engine["deepspeed"] = read_strategy(engine["deepspeed"])
    if isinstance(data, dict) and isinstance(data.get("suite"), str):
        data["suite"] = load_suite(data["suite"])


def _probe(raw: Raw) -> Raw:
    """Return the probe of the learning rates in a raw sweep; empty if there is none."""
    found: object = raw
    for key in ("rules", "lr", "probe"):
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _complete_ladders(raw: Raw) -> None:
    """Lay each model of a ladder over `run.model`; what is no mapping is left to the validation."""
    run, design = raw.get("run"), raw.get("design")
    shared = run.get("model") if isinstance(run, dict) else None
    if not isinstance(shared, dict):
        return
    for place in (raw, *(design if _is_design(design) else ()), _probe(raw)):
        ladder = place.get("ladder")
        if isinstance(ladder, dict) and kind_of_ladder(ladder) == "models":
            for label, model in ladder.items():
                if isinstance(model, dict | None):
                    ladder[label] = laid_over(shared, model or {})
