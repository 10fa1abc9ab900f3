"""Write docs/api.md from the docstrings of what people import.

`python docs/api_reference.py` writes the page anew; a test compares it with the code.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

PAGE = Path(__file__).with_name("api.md")
INTRODUCTION = """\
# What to import

<!-- `python docs/api_reference.py` writes this page from the docstrings -->

What a notebook or a script needs. A forecast by the quickstart's model (`python -m
dpot_scale.train`), from the first frames of a held-out trajectory:

```python
from pathlib import Path

import numpy as np

import dpot_scale as ds
from dpot_scale.data.store.dataset import open_store

model = ds.load("runs/quickstart", dataset="dr_pdb_generated")
store = open_store(Path("data/quickstart"), "dr_pdb_generated")
trajectory = store.read("test", 0, 0, store.num_frames("test"))  # (frames, fields, x, y)
history, future = np.split(trajectory, [model.config.history])
forecast = model.rollout(history, steps=len(future))
for name, found, truth in zip(model.channels, forecast.swapaxes(0, 1), future.swapaxes(0, 1)):
    print(name, np.linalg.norm(found - truth) / np.linalg.norm(truth))
```

Tensors are (B, T, C, \\*space): windows, frames, fields, then the axes of space. Stores hold (N, T,
C, \\*space) in float32. Importing `dpot_scale` itself imports no torch. A user's mistake raises
a `UserError`, whose text is one sentence.
"""
# Of each topic: the module and the names in it.
PUBLIC: dict[str, list[tuple[str, list[str]]]] = {
    "Weights and forecasts": [
        ("dpot_scale", ["load", "load_model"]),
        ("dpot_scale.serving.forecaster", ["ServedModel"]),
        ("dpot_scale.serving.registry", ["register"]),
        ("dpot_scale.checkpoints.weights", ["read", "export"]),
        ("dpot_scale.checkpoints.checkpoint", ["committed", "verify", "Checkpoint"]),
        ("dpot_scale.forecasting.rollout", ["rollout", "persistence"]),
        ("dpot_scale.forecasting.errors", ["rel_l2"]),
    ],
    "Data": [
        ("dpot_scale.data.info", ["DatasetInfo"]),
        ("dpot_scale.data.store.writer", ["StoreWriter"]),
        ("dpot_scale.data.store.dataset", ["open_store", "DatasetStore", "stored_names"]),
        ("dpot_scale.data.store.verify", ["verify_dataset"]),
        ("dpot_scale.data.generation.suite", ["generate_suite"]),
    ],
    "Configs": [
        ("dpot_scale.config.load", ["load_run", "load_sweep", "load_suite", "dump"]),
    ],
    "Training and sweeps": [
        ("dpot_scale.runs.resolved", ["identify", "Run"]),
        ("dpot_scale.runs.run", ["run_training"]),
        ("dpot_scale.runs.result", ["read_result", "TrainingResult"]),
        ("dpot_scale.scaling.plan", ["plan"]),
        ("dpot_scale.scaling.driver", ["run_sweep"]),
        ("dpot_scale.scaling.report.write", ["write_report"]),
        ("dpot_scale.scaling.report.laws.points", ["Points"]),
        ("dpot_scale.scaling.report.laws.choice", ["choose", "foretell_largest"]),
        ("dpot_scale.scaling.report.laws.fit", ["Fit", "Interval"]),
        ("dpot_scale.scaling.report.laws.optimum", ["compute_optimal"]),
        ("dpot_scale.scaling.report.laws.planning", ["expected_width"]),
    ],
    "Errors": [
        ("dpot_scale.errors", ["UserError", "ConfigError", "DataError", "CheckpointError"]),
    ],
}
LINE = 100
SECTION = re.compile(r"^(Args|Returns|Yields|Raises|Attributes):$")
ITEM = re.compile(r"^(\w+): (.*)$")


def page() -> str:
    """Return the API page as Markdown: each public name with its signature and docstring."""
    parts = [INTRODUCTION]
    for topic, modules in PUBLIC.items():
        parts.append(f"## {topic}\n")
        for module, names in modules:
            for name in names:
                parts.append(f"### {name}\n\n`from {module} import {name}`\n")
                parts += _described(getattr(importlib.import_module(module), name))
    return "\n".join(parts)


def undocumented() -> list[str]:
    """Return what a reader of the page would find without a docstring."""
    missing = []
    for modules in PUBLIC.values():
        for module, names in modules:
            for name in names:
                found = getattr(importlib.import_module(module), name)
                members = [(name, found), *((f"{name}.{m}", o) for m, o in _methods(found))]
                missing += [f"{module}.{label}" for label, one in members if not one.__doc__]
    return missing


def _described(found: object) -> Iterator[str]:
    yield f"```python\n{_signature(found)}\n```\n"
    yield _markdown(inspect.getdoc(found) or "")
    for name, method in _methods(found):
        is_property = isinstance(method, property)
        call = method.fget if isinstance(method, property) else method
        label = f"{found.__name__}.{name}"  # type: ignore[attr-defined]
        yield f"**{label}**{', a property' * is_property}\n"
        yield f"```python\n{_signature(call)}\n```\n"
        yield _markdown(inspect.getdoc(call) or "")


def _methods(found: object) -> list[tuple[str, object]]:
    """Return the public methods and properties that a class itself defines."""
    if not inspect.isclass(found) or issubclass(found, Exception):
        return []
    own = [(name, value) for name, value in vars(found).items() if not name.startswith("_")]
    return [(n, v) for n, v in own if inspect.isfunction(v) or isinstance(v, property)]


def _signature(found: object) -> str:
    """Return how a function is called, or the fields of a class, as the code writes them."""
    source = textwrap.dedent(inspect.getsource(found))  # type: ignore[arg-type]
    node = ast.parse(source).body[0]
    if isinstance(node, ast.ClassDef):
        lines = source.splitlines()
        fields = [
            "\n".join(lines[n.lineno - 1 : n.end_lineno])
            for n in node.body
            if isinstance(n, ast.AnnAssign) and not ast.unparse(n.target).startswith("_")
        ]
        made = next((n for n in node.body if getattr(n, "name", "") == "__init__"), None)
        head = f"class {node.name}({', '.join(map(ast.unparse, node.bases))})".replace("()", "")
        return "\n".join([_call(made, node.name) if made else head, *fields])
    assert isinstance(node, ast.FunctionDef)
    return _call(node, f"def {node.name}")


def _call(node: ast.AST, name: str) -> str:
    assert isinstance(node, ast.FunctionDef)
    node.args.args = [arg for arg in node.args.args if arg.arg != "self"]
    returns = ""
    if node.returns is not None and name.startswith("def"):
        returns = f" -> {ast.unparse(node.returns)}".replace("'", "")
    arguments = list(_arguments(node.args))
    line = f"{name}({', '.join(arguments)}){returns}"
    if len(line) <= LINE:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in arguments) + f"){returns}"


def _arguments(args: ast.arguments) -> Iterator[str]:
    """Yield the arguments one by one, with their annotations and defaults."""
    defaults = [None] * (len(args.args) - len(args.defaults)) + list(args.defaults)
    for arg, default in zip(args.args, defaults, strict=True):
        yield ast.unparse(arg) + (f" = {ast.unparse(default)}" if default else "")
    if args.kwonlyargs:
        yield "*"
    for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield ast.unparse(arg) + (f" = {ast.unparse(default)}" if default else "")


def _markdown(docstring: str) -> str:
    """Return a docstring in Google's style with its sections as lists."""
    lines: list[str] = []
    section = ""
    for line in docstring.splitlines():
        text = line.strip()
        if started := SECTION.match(text):
            section = started[1]
            lines += [f"{section}:", ""]
        elif section and (item := ITEM.match(text)) and line.startswith("    ") and line[4] != " ":
            lines.append(f"- `{item[1]}`: {item[2]}")
        elif section and text:
            lines.append(f"  {text}" if lines[-1].startswith(("- ", "  ")) else f"- {text}")
        else:
            lines.append(text)
    return "\n".join(lines).replace("*space", "\\*space").replace("*s)", "\\*s)") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
