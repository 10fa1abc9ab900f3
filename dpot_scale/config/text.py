"""Reads YAML texts of the size of a config."""

from collections.abc import Hashable
from typing import Any

import yaml

# No config comes near: beyond, reading one or quoting it in a sentence may take for ever.
MOST_VALUES = 100_000
DEEPEST = 30
TOO_DEEP = f"it is nested more than {DEEPEST} levels deep"


def parse(text: str) -> object:
    """Return what a YAML text says.

    Raises:
        ValueError: it is not valid, in one line.
    """
    try:
        return yaml.load(text, Loader=_ConfigLoader)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except (yaml.YAMLError, ValueError) as error:  # the last is for dates that do not exist
        raise ValueError(" ".join(str(error).split())) from error


class _ConfigLoader(yaml.SafeLoader):
    """YAML of the size of a config, in which a repeated key is an error.

    Its first value would silently be lost.
    """

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # refused below: such a key has no hash
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} appears twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, sizes: dict[int, int], depth: int = 0) -> int:
    """Return how many values a node stands for, with those that its aliases repeat."""
    if depth > DEEPEST:  # so is a node that contains itself
        raise ValueError(TOO_DEEP)
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        sizes[id(node)] = 1 + sum(_size(child, sizes, depth + 1) for child in children)
    return sizes[id(node)]
