"""Every line of a block of commands is one that its program accepts, and none goes unread.

Those of `train` and `sweep` are in test_commands.py, with the values of their configs.
"""

import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest

from dpot_scale.config.arguments import Entry

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "cluster/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
LINES = sorted(
    {
        re.split(r"(?:^|\s)#", line)[0].strip()
        for page in PAGES
        for block in BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in re.sub(r"\\\n\s*", " ", block).splitlines()
    }
    - {""}
)
ENTRY = re.compile(r"(?:python -m dpot_scale\.|dpot_scale/)(\w+)(?:\.py)?\b(.*)")
OURS = [found for line in LINES if not line.startswith("ENTRY=") and (found := ENTRY.search(line))]
CLICK = {"ray": "ray.scripts.scripts", "mlflow": "mlflow.cli"}
OF_CLICK = [line for line in LINES if line.split()[0] in CLICK]
# Programs that no package brings: their verbs, as their manuals name them.
VERBS = {
    "kubectl": {"apply", "create", "logs", "wait", "get", "port-forward", "delete", "exec"},
    "docker": {"build", "push", "compose"},
    "git": {"clone"},
    "pip": {"install"},
    "pre-commit": {"install", "run"},
    "chmod": {"600"},
}
BARE = {
    *("sbatch", "scancel", "cp", "cd", "source", "export", "pytest", "python", "python3"),
    *("pip-audit", "deepspeed", "until"),
}


def test_there_are_some() -> None:
    assert len(OURS) > 30
    assert len(OF_CLICK) > 8


@pytest.mark.parametrize("line", LINES)
def test_its_program_is_one_that_is_looked_at(line: str) -> None:
    for command in re.split(r" && ", line.removesuffix(" &")):
        words = [word for word in command.split() if not re.match(r"[A-Z_]+=", word)]
        program, *rest = words
        if program in VERBS:
            assert rest[0] in VERBS[program], command
        else:
            assert program in BARE | CLICK.keys(), command
        for name in re.findall(r"(?<![\w/])cluster/[\w/.-]+", command):
            assert (ROOT / name).exists() or name == "cluster/mlflow/.env", name


@pytest.mark.parametrize("found", OURS, ids=lambda found: found[0])
def test_our_parsers_accept_ours(found: re.Match[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They parse, and do nothing more."""
    parsed = []

    def parse(entry: Entry, argv: list[str]) -> int:
        reads = entry.parse_intermixed_args if entry._commands is None else entry.parse_args
        parsed.append(reads(argv))
        return 0

    monkeypatch.setattr(Entry, "run", parse)
    words = shlex.split(re.sub(r" (?:>|\|).*$", "", found[2]))
    assert import_module(f"dpot_scale.{found[1]}").main(words) == 0
    assert len(parsed) == 1


@pytest.mark.parametrize("line", OF_CLICK)
def test_ray_and_mlflow_accept_theirs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = shlex.split(line.removesuffix(" &"))
    command: click.Command = import_module(CLICK[program]).cli
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=program)
        program, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    command.make_context(program, words)
