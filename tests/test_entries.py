"""All entries: a mistake is answered before anything that loads for seconds is imported."""

import subprocess
import sys

import pytest

SLOW = ("torch", "deepspeed", "ray", "mlflow", "matplotlib")


def answered(module: str, *arguments: str) -> tuple[list[str], set[str]]:
    """Run an entry that refuses its arguments; return its lines and what it imported of SLOW."""
    code = (
        "import runpy, sys\n"
        "module, *sys.argv[1:] = sys.argv[1:]\n"
        "try: runpy.run_module(module, run_name='__main__')\n"
        "except SystemExit as ended: assert ended.code == 2, ended.code\n"
        f"print(*set({SLOW!r}).intersection(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, module, *arguments], capture_output=True, text=True, check=True
    )
    return done.stderr.splitlines(), set(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("train", ["model.sise=S"], "unknown key 'model.sise' (did you mean 'size'?)"),
        ("train", ["--config", "quikstart"], "(did you mean 'quickstart'?)"),
        ("train", ["--config", "absent.yaml"], "absent.yaml: No such file"),
        ("train", ["model.heads=3"], "model.heads=3 does not divide model.width=64"),
        ("train", ["engine.deepspeed=zero9"], "'zero9' is not in deepspeed_configs/"),
        ("train", ["data.suite=quikstart"], "(did you mean 'quickstart'?)"),
    ],
)
def test_a_mistake_is_one_sentence_at_once(
    module: str, arguments: list[str], sentence: str
) -> None:
    lines, imported = answered(f"dpot_scale.{module}", *arguments)
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert sentence in lines[0]
    assert imported == set()
