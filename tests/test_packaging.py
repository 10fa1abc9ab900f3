"""An installed package has all that its commands need, away from the checkout."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESOURCES = {".html", ".css", ".js", ".yaml", ".json"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what a wheel would install."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    inside = {package: package for package in wheel["packages"]} | wheel["force-include"]
    for source, target in inside.items():
        shutil.copytree(ROOT / source, site / target, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def test_only_one_module_is_installed(site: Path) -> None:
    assert [path.name for path in site.iterdir()] == ["dpot_scale"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sweep", "plan", "run.engine.deepspeed=zero1_bf16"], "workers each, zero1_bf16"),
        (["train", "--print-config", "engine.deepspeed=zero3_bf16_lean"], "name: zero3_bf16_lean"),
    ],
)
def test_it_finds_its_presets(command: list[str], said: str, site: Path, tmp_path: Path) -> None:
    entry, *rest = command
    code = f"import sys; sys.path[0] = {str(site)!r}; import runpy; "
    code += f"sys.argv[1:] = {rest!r}; runpy.run_module('dpot_scale.{entry}', run_name='__main__')"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert said in found.stdout


def test_no_file_of_the_package_is_left_out_of_a_wheel() -> None:
    """Hatchling takes all files of a package but those that git ignores."""
    files = [path for path in (ROOT / "dpot_scale").rglob("*") if path.suffix in RESOURCES]
    assert {"template.html", "style.css", "script.js"} <= {path.name for path in files}
    ignored = subprocess.run(
        ["git", "-C", str(ROOT), "check-ignore", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout == ""
