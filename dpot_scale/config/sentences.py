"""Says in one sentence what pydantic finds wrong with a config, in the words of the user."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import yaml
from pydantic_core import ErrorDetails

from dpot_scale.config.base import Section
from dpot_scale.config.model import ModelConfig, config_class

# What a value of each kind must be. The braces are filled from the context of the error.
MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dataclass_type": "a section, as {{key: value}}",
    "dict_type": "a section, as {{key: value}}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "fewer digits",
    "int_type": "a whole number",
    "invalid_key": "text",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a section, as {{key: value}}",
    "path_type": "a path",
    "string_pattern_mismatch": "only letters, digits, '_', '.' and '-', the first no '.' or '-'",
    "string_too_long": "at most {max_length} letters long",
    "string_type": "text, in quotes where YAML reads something else",
    "too_long": "at most {max_length} entries long",
    "too_short": "at least {min_length} entry long",
    "tuple_type": "a list, as [1, 2]",
}

Place = tuple[int | str, ...]


def sentence(
    model: type[Section], raw: object, errors: Sequence[ErrorDetails], written: Mapping[str, str]
) -> str:
    """Return a sentence on the first mistake, which also counts the others.

    Args:
        model: The class of the config.
        raw: The YAML mapping.
        errors: The errors that pydantic found, at least one.
        written: The text of each override, which is quoted as it was typed.
    """
    # Each member of a union complains apart, about the same value or an entry of it.
    places = [_place(raw, error) for error in errors]
    first = max((place for place in places if place[: len(places[0])] == places[0]), key=len)
    same = [e for e, place in zip(errors, places, strict=True) if place == first]
    others = len({place for place in places if place != first[: len(place)]})
    more = f" (and {others} more)" if others else ""
    return f"{_mistake(model, raw, first, same, written)}{more}"


def nearest(word: str, known: Iterable[str], section: str = "") -> str:
    """Return " (did you mean ...?)" for the known name closest to `word`, or an empty string.

    Args:
        word: What was written.
        known: The names.
        section: The keys that lead to them, as `optim`, which the hint then begins with.
    """
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    if not matches:
        return ""
    meant = f"{section}.{matches[0]}" if section else matches[0]
    return f" (did you mean {meant!r}?)"


def _mistake(
    model: type[Section],
    raw: object,
    place: Place,
    errors: Sequence[ErrorDetails],
    written: Mapping[str, str],
) -> str:
    first = errors[0]
    where = ".".join(map(str, place))
    match first["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            *parents, key = place
            section, content = _section_at(model, raw, parents)
            return f"unknown key {where!r}{_known_key(section, content, parents, key)}"
        case "missing":
            return f"{where!r} is missing"
        case "value_error":
            message = first["msg"].removeprefix("Value error, ")
            return f"{where}: {message}" if where else message
    must_be = " or ".join(dict.fromkeys(_must_be(error) for error in errors))
    if first["loc"][-1] == "[key]":
        return f"the key {first['input']!r} of {'.'.join(map(str, place[:-1]))!r} must be {must_be}"
    if first["input"] is None:
        return f"{where!r} has no value; it must be {must_be}"
    value = written.get(where) or _as_yaml(first["input"])
    return f"{where}={value}: must be {must_be}{_expected_word(first)}"


def _place(raw: object, error: ErrorDetails) -> Place:
    """Return the keys that lead to an error, without the words that pydantic adds to them."""
    place: Place = ()
    location = error["loc"]
    for part in location:
        if not isinstance(raw, dict | list | tuple) or (part == "[key]" and part not in raw):
            break
        is_missing = error["type"] == "missing" and part == location[-1]
        known = part in raw if isinstance(raw, dict) else isinstance(part, int)
        if not (known or is_missing):
            continue  # the tag of a union
        place = (*place, part)
        if isinstance(raw, dict):
            raw = raw.get(part)
        else:
            raw = raw[part] if isinstance(part, int) and part < len(raw) else None
    return place


def _must_be(error: ErrorDetails) -> str:
    template = MUST_BE.get(error["type"])
    return (
        error["msg"].removeprefix("Input should be ")
        if template is None
        else template.format(**error.get("ctx", {}))
    )


def _expected_word(error: ErrorDetails) -> str:
    if error["type"] != "literal_error":
        return ""
    return nearest(str(error["input"]), error["ctx"]["expected"].split("'")[1::2])


def _as_yaml(value: object) -> str:
    """Return a value as a user writes it in YAML, with text in quotes."""
    if isinstance(value, str):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


def _known_key(
    section: type[Section], content: object, parents: Sequence[int | str], key: int | str
) -> str:
    """Return a hint at the key that was meant: the same name in a section below, or a similar one.

    Args:
        section: The section that does not have the key.
        content: What was written for it.
        parents: The keys that lead to the section.
        key: The unknown key.
    """
    for name, below in _sections_in(section, content):
        if key in below.model_fields:
            meant = ".".join(map(str, (*parents, name, key)))
            return f" (did you mean {meant!r}?)"
    return nearest(str(key), section.model_fields, ".".join(map(str, parents)))


def _sections_in(section: type[Section], content: object) -> Iterator[tuple[str, type[Section]]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, _of_family(field.annotation, _item(content, name))


def _section_at(
    model: type[Section], raw: object, path: Sequence[int | str]
) -> tuple[type[Section], object]:
    """Return the section class at a path of keys, through dictionaries too, and what is there."""
    section = model
    for key in path:
        raw = _item(raw, key)
        field = section.model_fields.get(str(key))
        if field is None:
            continue  # the key of a dictionary whose values are the current section
        section = next(_sections_of(field.annotation), section)
    return _of_family(section, raw), raw


def _sections_of(annotation: object) -> Iterator[type[Section]]:
    """Yield the section classes that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    # What is annotated, and then the members of a union or the values of a mapping.
    for part in (getattr(annotation, "__origin__", None), *getattr(annotation, "__args__", ())):
        if part is not None:
            yield from _sections_of(part)


def _of_family(section: type[Section], content: object) -> type[Section]:
    """Return the class of the family that a model names, any other section as it is."""
    return config_class(content) if section is ModelConfig else section


def _item(content: object, key: int | str) -> object:
    return content.get(key) if isinstance(content, Mapping) else None
