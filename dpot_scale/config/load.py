"""From a preset or YAML file and `key.sub=value` overrides to a validated config.

A YAML file may say `extends: NAME_OR_PATH`: its keys are then laid over that other file. Every
mistake becomes one `ConfigError` that names the key, the value and the nearest known name.
"""

import argparse
import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dpot_scale.config.schema import ModelConfig, RunConfig, Section, SuiteConfig, SweepConfig
from dpot_scale.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"

REPLACED_WHOLE = ("weights", "ladder")

Kind = Literal["run", "sweep", "suite"]
Raw = dict[str, Any]  # a YAML mapping before validation
S = TypeVar("S", bound=Section)


def load_run(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run that a preset name or YAML path describes, with overrides applied."""
    raw = _read("run", source)
    _apply(raw, overrides)
    return validated(RunConfig, raw, source)


def load_sweep(source: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """Return the sweep that a preset name or YAML path describes, with overrides applied.

    `run` may extend a run preset; each ladder entry is laid over `run.model`.
    """
    raw = _read("sweep", source)
    if isinstance(raw.get("run"), dict):
        raw["run"] = _extended("run", raw["run"])
        # A trial is named after its model and length, so the shared part needs no name.
        raw["run"].setdefault("name", raw.get("name", source))
    _apply(raw, overrides)
    shared_model = raw.get("run", {}).get("model", {})
    for label, model in (raw.get("ladder") or {}).items():
        raw["ladder"][label] = {**shared_model, **(model or {})}
        validated(ModelConfig, raw["ladder"][label], f"{source}, ladder.{label}")
    return validated(SweepConfig, raw, source)


def load_suite(source: str) -> SuiteConfig:
    """Return the data suite that a preset name or YAML path describes."""
    return validated(SuiteConfig, _read("suite", source), source)


def validated(model: type[S], raw: Raw, source: str) -> S:
    """Return the config that a raw mapping describes.

    Raises:
        ConfigError: one sentence on the first mistake, naming `source` as the place of it.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first, *others = error.errors()
        more = f" (and {len(others)} more)" if others else ""
        raise ConfigError(f"config {source}: {_sentence(model, first)}{more}") from error


def dump(config: Section) -> str:
    """Return a config as YAML that the loaders accept back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def presets(kind: Kind) -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in (PRESETS / kind).glob("*.yaml"))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" for the known name closest to `word`, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def add_config_arguments(parser: argparse.ArgumentParser, kind: Kind) -> None:
    """Add what every entry has in common: --config, --print-config and overrides."""
    parser.add_argument(
        "--config",
        default="quickstart",
        metavar="PATH_OR_PRESET",
        help=f"a YAML file, or one of: {', '.join(presets(kind))} (default: quickstart)",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the complete config as YAML, in the form --config accepts, and stop",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help="replace one value of the config, for example model.size=S",
    )


def _read(kind: Kind, source: str) -> Raw:
    """Read a preset or file, following `extends`."""
    path = Path(source)
    if path.suffix not in {".yaml", ".yml"}:
        path = PRESETS / kind / f"{source}.yaml"
        if not path.is_file():
            known = presets(kind)
            raise ConfigError(
                f"no {kind} preset is called {source!r}{nearest(source, known)}; "
                f"give a .yaml file or one of: {', '.join(known)}"
            )
    return _extended(kind, _read_yaml(path))


def _read_yaml(path: Path) -> Raw:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path} is not a text file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {path} must hold a mapping of keys to values")
    return raw


def _extended(kind: Kind, raw: Raw) -> Raw:
    """Lay `raw` over the config that its `extends` names, if it names one."""
    if "extends" not in raw:
        return raw
    base = str(raw["extends"])
    return _merged(_read(kind, base), {k: v for k, v in raw.items() if k != "extends"})


def _merged(base: Raw, top: Mapping[str, Any]) -> Raw:
    """Return `base` with `top` laid over it, mapping by mapping.

    Mixture weights and ladders are replaced as a whole: two have no meaningful union.
    """
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and key not in REPLACED_WHOLE:
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _apply(raw: Raw, overrides: Sequence[str]) -> None:
    """Write each `key.sub=value` into the raw config; the value is read as YAML."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {override!r} is not of the form key.sub=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value of override {override!r} is not valid YAML") from error
        *parents, last = key.split(".")
        section = raw
        for parent in parents:
            if section.get(parent) is None:
                section[parent] = {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
        section[last] = value


def _sentence(model: type[Section], error: ErrorDetails) -> str:
    """Say in one sentence what pydantic found wrong."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        *parents, key = error["loc"]
        known = _section_at(model, parents).model_fields
        return f"unknown key {where!r}{nearest(str(key), known)}"
    if error["type"] == "missing":
        return f"{where!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not where:
        return message
    hint = _literal_hint(error)
    return f"{where}={error['input']!r}: {message[:1].lower()}{message[1:]}{hint}"


def _literal_hint(error: ErrorDetails) -> str:
    if error["type"] != "literal_error":
        return ""
    expected = str(error.get("ctx", {}).get("expected", ""))
    return nearest(str(error["input"]), [word.strip("'") for word in expected.split("'")[1::2]])


def _section_at(model: type[Section], path: Sequence[int | str]) -> type[Section]:
    """Return the section class that lies at a path of keys, through dictionaries too."""
    section = model
    for key in path:
        field = section.model_fields.get(str(key))
        if field is None:
            continue  # the key of a dictionary whose values are the current section
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, Section)), section
        )
    return section


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a repeated key is an error: the first value would silently be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} appears twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
