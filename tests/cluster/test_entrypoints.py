"""Every command that a file of cluster/ runs, or tells people to, is one that its parser accepts.

`--print-config` makes each entry load its config, and do nothing more.
"""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from dpot_scale import doctor, sweep, train
from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.config.strategy import strategy_names
from dpot_scale.runs.resolved import identify, resolve
from dpot_scale.scaling.fitting import require_fit
from dpot_scale.scaling.plan import on_device, plan

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PAGES = [ROOT / "docs" / "cluster.md", ROOT / "docs" / "troubleshooting.md", ROOT / "SECURITY.md"]
FILES = [*PAGES, *(path for path in sorted(CLUSTER.rglob("*")) if path.is_file())]
COMMAND = re.compile(
    r"(?<!ENTRY=)(?:python -m dpot_scale\.|dpot_scale/)(sweep|train|doctor)(?:\.py)?"
    r"((?: [^\s`&|<>'\"]+)*)"
)
SUBMITTED = re.compile(
    r"(?:ENTRY=\S*\b(doctor)(?:\.py)? )?sbatch cluster/slurm/(\w+)\.sbatch((?: [^\s`#]+)*)"
)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """The entry and the arguments of each command in a text."""
    text = re.sub(r"\\\n#?\s*", " ", text)
    found = [(entry, shlex.split(words)) for entry, words in COMMAND.findall(text)]
    for other, script, words in SUBMITTED.findall(text):
        found.append((other or ("train" if script == "train" else "sweep"), shlex.split(words)))
    return [(entry, words) for entry, words in found if not {"$@", "..."} & {*words}]


COMMANDS = sorted(
    {
        (entry, *words)
        for path in FILES
        for entry, words in commands(path.read_text(encoding="utf-8"))
    }
)


def test_there_are_some_of_each() -> None:
    assert {entry for entry, *_ in COMMANDS} == {"sweep", "train", "doctor"}
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_its_parser_accepts_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    entry, *words = command
    words = ["quickstart" if word.endswith(".yaml") else word for word in words]  # a reader's own
    assert {"sweep": sweep, "train": train, "doctor": doctor}[entry].main(
        [*words, "--print-config"]
    ) == 0
    assert yaml.safe_load(capsys.readouterr().out)["name"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_files_that_it_names_exist(path: Path) -> None:
    named = re.findall(r"(?<![\w/])cluster/[\w/.-]*\w", path.read_text(encoding="utf-8"))
    made_by_readers = {"cluster/mlflow/.env"}
    assert {name for name in named if not (ROOT / name).exists()} <= made_by_readers


def test_the_commands_of_a_cluster_that_stays_are_those_of_the_page() -> None:
    """Those at its top and those of docs/cluster.md, word for word."""

    def words(lines: list[str]) -> set[str]:
        return {line.split("   #")[0].strip() for line in lines}

    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    text = (CLUSTER / "kuberay" / "raycluster.yaml").read_text(encoding="utf-8")
    of_file = words(re.findall(r"^#   (.*)$", text, re.M))
    assert len(of_file) == 4
    assert of_file <= words(page.splitlines())


# Sizes.


def directives(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", path.read_text(), re.M))


def preset(path: Path) -> str:
    """The config that all commands of a file name."""
    texts = [words for _, words in commands(path.read_text()) if "--config" in words]
    (name,) = {words[words.index("--config") + 1] for words in texts}
    return name


@pytest.mark.parametrize("name", ["sweep", "symmetric_run", "train"])
def test_a_slurm_job_asks_for_the_memory_that_it_uses(name: str) -> None:
    """Slurm gives little by default; with --exclusive all of a node is meant."""
    path = CLUSTER / "slurm" / f"{name}.sbatch"
    alone = "#SBATCH --exclusive\n" in path.read_text()
    assert directives(path)["mem"] == ("0" if alone else "800G")


@pytest.mark.parametrize("name", ["sweep", "symmetric_run"])
def test_a_slurm_job_has_the_gpus_and_cores_of_one_trial(name: str) -> None:
    path = CLUSTER / "slurm" / f"{name}.sbatch"
    asked = directives(path)
    resources = load_sweep(preset(path)).resources
    assert int(asked["nodes"]) * int(asked["gpus-per-node"]) == resources.workers
    assert int(asked["cpus-per-task"]) >= int(asked["gpus-per-node"]) * resources.cpus_per_worker
    assert asked["ntasks-per-node"] == "1"
    assert asked["signal"] == "B:TERM@300"


def slots(path: Path) -> int:
    return sum(map(int, re.findall(r"^\w+ slots=(\d+)$", path.read_text(), re.M)))


def test_deepspeed_starts_as_many_workers_as_divide_the_batch() -> None:
    path = CLUSTER / "slurm" / "train.sbatch"
    asked = directives(path)
    workers = int(asked["nodes"]) * int(asked["gpus-per-node"])
    run = load_run(preset(path))
    assert slots(CLUSTER / "hostfile") == workers
    assert run.batch.accumulation_steps(workers) == 1
    assert run.name in (CLUSTER / "hostfile").read_text()


def test_deepspeed_reads_the_hostfile() -> None:
    from deepspeed.launcher.runner import fetch_hostfile

    assert sum(fetch_hostfile(str(CLUSTER / "hostfile")).values()) == slots(CLUSTER / "hostfile")


@pytest.mark.parametrize("workers", [8, 16])
@pytest.mark.parametrize("name", strategy_names())
def test_every_sharding_config_resolves_at_the_sizes_of_the_files(
    name: str, workers: int, tmp_path: Path
) -> None:
    overrides = [
        f"engine.deepspeed={name}",
        f"output={tmp_path}",
        "batch.global_batch=128",
        "windows=1280",
        "batch.micro_batch=8",
    ]
    run = resolve(identify(load_run("paper_l", overrides)), world_size=workers, on_gpu=True)
    assert run.deepspeed is not None
    assert run.deepspeed["train_batch_size"] == 128
    assert run.deepspeed["train_micro_batch_size_per_gpu"] == 8


def test_the_preset_of_the_files_fits_their_gpus() -> None:
    sweep = on_device(load_sweep("gpus"), "h100")
    require_fit(sweep, plan(sweep, "h100"), "h100")
