"""All entries: what needs nothing that loads for seconds is answered without it."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.__main__ import ENTRIES
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.report.write import write_report
from tests.results import finish

SLOW = ("torch", "deepspeed", "ray", "mlflow", "matplotlib", "rich")


def ran(module: str, *arguments: str, code: int) -> tuple[str, list[str], set[str]]:
    """Run an entry; return what it printed, its errors, and what it imported of SLOW."""
    program = (
        "import runpy, sys\n"
        "module, code, *sys.argv[1:] = sys.argv[1:]\n"
        "try: runpy.run_module(module, run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == int(code), ended.code\n"
        f"print(*set({SLOW!r}).intersection(sys.modules), end='')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, module, str(code), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    out, _, imported = done.stdout.rpartition("\n")
    return out, done.stderr.splitlines(), set(imported.split())


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("train", ["model.sise=S"], "unknown key 'model.sise' (did you mean 'model.size'?)"),
        ("train", ["--config", "quikstart"], "(did you mean 'quickstart'?)"),
        ("train", ["--config", "absent.yaml"], "absent.yaml: No such file"),
        ("train", ["model.heads=3"], "model.heads=3: must be a divisor of width=64"),
        ("train", ["engine.deepspeed=zero9"], "'zero9' is not in deepspeed_configs/"),
        ("train", ["data.suite=quikstart"], "(did you mean 'quickstart'?)"),
        ("train", ["my_run.yaml"], "(did you mean --config my_run.yaml?)"),
        ("train", ["--confg", "quickstart"], "there is no option '--confg' (did you mean '--con"),
        ("sweep", ["rnu"], "there is no command 'rnu' (did you mean 'run'?)"),
        ("sweep", ["paper.yaml"], "(did you mean --config paper.yaml?)"),
        ("sweep", ["plan", "run"], "give one command, not plan and run"),
        (
            "sweep",
            ["run.model.sise=S"],
            "unknown key 'run.model.sise' (did you mean 'run.model.size'?)",
        ),
        ("evaluate", ["absent.pth"], "absent.pth does not exist; give the folder of a run"),
        ("evaluate", ["a.pth", "--config", "quikstart"], "(did you mean 'quickstart'?)"),
        ("evaluate", ["a.pth", "--oot", "x"], "there is no option '--oot' (did you mean '--out'?)"),
        ("prepare", [], "give a command: generate, import, list, verify"),
        ("prepare", ["lst"], "there is no command 'lst' (did you mean 'list'?)"),
        ("prepare", ["generate", "--siute", "x"], "(did you mean '--suite'?)"),
        ("prepare", ["list", "absent"], "absent does not exist"),
        ("weights", ["inspekt"], "there is no command 'inspekt' (did you mean 'inspect'?)"),
        (
            "weights",
            ["inspect", "absent.pth"],
            "absent.pth does not exist; give the folder of a run",
        ),
        ("__main__", ["swep"], "(did you mean 'sweep'?)"),
        ("__main__", ["train", "seed=1"], "run `python -m dpot_scale.train seed=1`"),
    ],
)
def test_a_mistake_is_one_sentence_at_once(
    module: str, arguments: list[str], sentence: str
) -> None:
    _, lines, imported = ran(f"dpot_scale.{module}", *arguments, code=2)
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert sentence in lines[0]
    assert imported == set()


@pytest.mark.parametrize("entry", [*ENTRIES, "__main__"])
def test_every_entry_is_called_alike(entry: str) -> None:
    main = importlib.import_module(f"dpot_scale.{entry}").main
    signature = inspect.signature(main)
    assert str(signature).startswith("(argv: collections.abc.Sequence[str] | None = None) -> int")


@pytest.mark.parametrize("entry", ENTRIES)
def test_help_comes_at_once(entry: str) -> None:
    out, lines, imported = ran(f"dpot_scale.{entry}", "--help", code=0)
    assert out.startswith(f"usage: python -m dpot_scale.{entry} ")
    assert (lines, imported) == ([], set())


def test_the_package_lists_its_entries() -> None:
    out, _, imported = ran("dpot_scale", code=0)
    assert [line.split()[2] for line in out.splitlines()[: len(ENTRIES)]] == [
        f"dpot_scale.{entry}" for entry in ENTRIES
    ]
    assert imported == set()


def test_a_finished_sweep_is_shown_without_ray(tmp_path: Path) -> None:
    sweep = resolve_sweep_paths(load_sweep("quickstart", [f"run.output={tmp_path}"]), Path.cwd())
    trials = plan(sweep)
    for number, trial in enumerate(trials, 1):
        finish(trial, 0.5 / number)
    summary = write_report(sweep, trials).summary
    out, lines, imported = ran("dpot_scale.sweep", f"run.output={tmp_path}", code=0)
    assert out.endswith(summary)
    assert lines == []
    assert imported <= {"matplotlib"}
