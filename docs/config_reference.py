"""Write docs/config.md, the reference of every config key, from the config classes.

`python docs/config_reference.py` writes the page anew; a test compares it with the classes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpot_scale.config.base import Section
from dpot_scale.config.data import ArrayLayout, SuiteConfig
from dpot_scale.config.identity import LEFT_OUT
from dpot_scale.config.model import DEFAULT_FAMILY, FAMILIES, ModelConfig, config_class
from dpot_scale.config.run import RunConfig
from dpot_scale.config.sweep import SweepConfig

PAGE = Path(__file__).with_name("config.md")
KINDS: dict[str, type[Section]] = {
    "run": RunConfig,
    "sweep": SweepConfig,
    "suite": SuiteConfig,
    "layout": ArrayLayout,
}
INTRODUCTION = """\
# Every config key

<!-- `python docs/config_reference.py` writes this page from the classes in dpot_scale/config/ -->

A config is a YAML file; `extends: PRESET_OR_PATH` begins from another one. On the command line,
`key.sub=value` overrides a key, and `--print-config` prints the complete config, which is accepted
back. The presets are in `dpot_scale/config/presets/`.

The keys with "yes" under "identity" decide the numbers of a run: with another value it is another
run, which needs another `name`. Of what a config names, the content counts: of each dataset its
recipe or the checksums of its files, of `start.source` the weights, of `engine.deepspeed` the
precision.
"""

Schema = dict[str, Any]  # JSON schema of a config, a section or a key


def page() -> str:
    """Return the reference as Markdown: a table for each kind of config and for each section."""
    kinds = {kind: _schema(model) for kind, model in KINDS.items()}
    # Of each class, the heading of its chapter: the key path of its first use.
    places = {schema["title"]: f"a-{kind}" for kind, schema in kinds.items()}
    parts = [INTRODUCTION]
    for kind, schema in kinds.items():
        sections = schema.get("$defs", {})
        chapters = list(_sections(schema, sections, places))
        is_run = kind == "run"
        parts.append(_chapter(f"## A {kind}", schema, places, _deciding([]) if is_run else None))
        for keys, name in chapters:
            if name == ModelConfig.__name__:
                parts += _families(keys, places)
            else:
                decides = _deciding(keys.split(".")) if is_run else None
                parts.append(_chapter(f"### `{keys}`", sections[name], places, decides))
    return "\n".join(parts)


def _families(keys: str, places: dict[str, str]) -> Iterator[str]:
    """Yield the chapters on the models of each family, the default one first."""
    for family in sorted(FAMILIES, key=lambda name: name != DEFAULT_FAMILY):
        config = config_class({"family": family})
        schema = _schema(config)
        sections = schema.get("$defs", {})
        chapters = list(_sections(schema, sections, places, f"{keys}."))
        of_family = "" if family == DEFAULT_FAMILY else f" of the family {family}"
        decides = set(config.dimension_names()).__contains__  # all that counts of a model
        yield _chapter(f"### `{keys}`{of_family}", schema, places, decides)
        for path, name in chapters:
            yield _chapter(f"### `{path}`", sections[name], places, lambda _: True)


def undescribed() -> list[str]:
    """Return the keys, as Class.key, that say nothing of their meaning."""
    missing = set[str]()
    models = [config_class({"family": family}) for family in FAMILIES]
    for model in (*KINDS.values(), *models):
        schema = _schema(model)
        for section in (schema, *schema.get("$defs", {}).values()):
            for key, field in section["properties"].items():
                if "description" not in field and "$ref" not in field:
                    missing.add(f"{section['title']}.{key}")
    return sorted(missing)


def _schema(model: type[Section]) -> Schema:
    """Return the JSON schema of a config, with the names of defaults that a function makes."""
    schema = model.model_json_schema()
    classes = {section.__name__: section for section in _subclasses(Section)}
    for part in (schema, *schema.get("$defs", {}).values()):
        for key, field in classes[part["title"]].model_fields.items():
            if field.default_factory is not None:
                made = field.get_default(call_default_factory=True)
                part["properties"][key]["default"] = getattr(made, "name", {"its": "own"})
    return schema


def _subclasses(base: type[Section]) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from _subclasses(section)


def _sections(
    schema: Schema, sections: dict[str, Schema], places: dict[str, str], above: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield the key path and the class of sections that have no place yet, and give them one."""
    for key, field in schema["properties"].items():
        for name in _references(field):
            if name not in places:
                keys = places[name] = f"{above}{key}" + ".NAME" * (field.get("type") == "object")
                yield keys, name
                yield from _sections(sections[name], sections, places, f"{keys}.")


def _references(field: Schema) -> list[str]:
    """Return the classes of the sections that a key may hold."""
    if "$ref" in field:
        return [field["$ref"].rpartition("/")[2]]
    parts = (*_alternatives(field), *_entries(field))
    return [name for part in parts for name in _references(part)]


def _alternatives(field: Schema) -> list[Schema]:
    return [*field.get("anyOf", []), *field.get("oneOf", [])]


def _entries(field: Schema) -> list[Schema]:
    """Return what a list or a mapping may hold."""
    entries = [field[key] for key in ("items", "additionalProperties") if key in field]
    entries += field.get("patternProperties", {}).values()
    return [entry for entry in entries if isinstance(entry, dict)]


def _chapter(
    heading: str, section: Schema, places: dict[str, str], decides: Callable[[str], bool] | None
) -> str:
    """Return the table of a section.

    Args:
        heading: The heading above it.
        section: The schema of the section.
        places: Of each class, the heading of its chapter.
        decides: Whether a key is part of a run's identity; None if the section is of no run.
    """
    lines = [heading, "", section["description"].partition("\n\n")[0], ""]
    columns = ["key", "value", "default", *["identity"] * (decides is not None), "meaning"]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for key, field in section["properties"].items():
        cells = [f"`{key}`", _value(field, places)]
        cells.append("**required**" if key in section.get("required", ()) else _default(field))
        if decides is not None:
            cells.append("yes" if decides(key) and "$ref" not in field else "")
        cells.append(" ".join(field.get("description", "").split()).replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def _deciding(path: list[str]) -> Callable[[str], bool]:
    """Return a function that says which keys of a section decide the identity of a run."""
    return lambda key: _is_in_identity([*path, key])


def _is_in_identity(path: list[str]) -> bool:
    left_out: Any = LEFT_OUT
    for key in path:
        if left_out is True or key not in left_out:
            return left_out is not True
        left_out = True if isinstance(left_out, set) else left_out[key]
    return left_out is not True


def _default(field: Schema) -> str:
    default: Any = field.get("default")
    if _references(field) == ["Length"]:  # of which each use has a default of its own
        return "`{" + ", ".join(f"{key}: {_yaml(value)}" for key, value in default.items()) + "}`"
    if isinstance(default, dict) and "$ref" in field:  # a section, which shows its own defaults
        return ""
    if default is None and {"type": "null"} not in _alternatives(field):  # other keys decide it
        return ""
    return f"`{_yaml(default)}`"


def _yaml(value: object) -> str:
    """Return a default as it is written in a config."""
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(field: Schema, places: dict[str, str]) -> str:
    """Return which values a key takes, in words."""
    if "$ref" in field:
        place = places[_references(field)[0]]
        return f"[section](#{place.replace('.', '').lower()})"
    if _alternatives(field):
        return " or ".join(dict.fromkeys(_value(part, places) for part in _alternatives(field)))
    match field.get("type"):
        case "array" if "prefixItems" in field:
            return f"[{', '.join(_value(part, places) for part in field['prefixItems'])}]"
        case "array":
            return "list of: " + _value(_entries(field)[0], places)
        case "object":
            return "NAME: " + (" or ".join(_value(e, places) for e in _entries(field)) or "value")
    return _word(field)


def _word(field: Schema) -> str:
    choices = field.get("enum", [field["const"]] if "const" in field else [])
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if "type" not in field:
        return "value"
    words = {"boolean": "`true`, `false`", "null": "`null`", "integer": "whole number"}
    words |= {"number": "number", "string": "path" if field.get("format") == "path" else "text"}
    return words[field["type"]] + _range(field)


def _range(field: Schema) -> str:
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]}" for key, sign in bounds.items() if key in field]
    return f" {', '.join(limits)}" if limits else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
