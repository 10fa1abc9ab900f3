"""One clear sentence per mistake in a config."""

from pathlib import Path

import pytest

from dpot_scale.config.load import load_run, load_sweep
from dpot_scale.errors import ConfigError


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.sise=S"], "unknown key 'model.sise' (did you mean 'model.size'?)"),
        (["model.size=Tii"], "model.size=Tii: must be 'debug', 'Ti', 'S', 'M', 'L' or 'H' "),
        (["model.size=Tii"], "did you mean 'Ti'?"),
        (["[key]=1"], "unknown key '[key]'"),
        (["lr=3e-4"], "unknown key 'lr' (did you mean 'optim.lr'?)"),
        (["batch.global_batch=many"], "batch.global_batch=many: must be a whole number"),
        (["batch.micro_batch=2.5"], "batch.micro_batch=2.5: must be a whole number or 'auto'"),
        (["optim.lr=-1"], "optim.lr=-1: must be more than 0"),
        (["optim.lr=true"], "optim.lr=true: must be a number"),
        (["windows=yes"], "windows=yes: must be a number"),
        (["optim.lr=.inf"], "optim.lr=.inf: must be a finite number"),
        (["data.weights={a: .nan}"], "data.weights.a=.nan: must be a finite number"),
        (["optim.lr="], "'optim.lr' has no value; it must be a number"),
        (["optim.warmup=3"], "optim.warmup=3: must be a section, as {key: value}"),
        (["optim.warmup.share=2"], "optim.warmup.share=2: must be at most 1"),
        (
            ["optim.decay={windows: 4, share: 0.1}"],
            "optim.decay: give either {windows: NUMBER} or {share: FRACTION}",
        ),
        (
            ["windows=64", "optim.warmup.windows=65"],
            "optim.warmup.windows=65 is longer than the run, windows=64; give fewer, or a share of",
        ),
        (["optim=3"], "optim=3: must be a section, as {key: value}"),
        (["optim.lr=3,0"], "optim.lr=3,0: must be a number"),
        (["seed=99999999999999999999"], "seed=99999999999999999999: must be less than 2147483648"),
        (["name=off"], "name=off: must be text, in quotes where YAML reads something else"),
        (["name=.."], "name=..: must be only letters"),
        (["name=-x"], "name=-x: must be only letters"),
        (["name=2020-99-99"], "the value of override 'name=2020-99-99' is not valid YAML"),
        (["data.weights={a: 1, a: 2}"], "is not valid YAML"),
        (
            ["windows=100", "batch.global_batch=16"],
            "windows=100 is not a multiple of batch.global_batch=16",
        ),
        (["model"], "is not of the form key.sub=value"),
        (["name.x=1"], "'name' is a value, not a section"),
        (["optim.lr=[1"], "is not valid YAML"),
        (["data.sampling=repeat", "data.weights={a: 1.5}"], "weights.a=1.5 is not a whole number"),
        (["data.strides=[1, 2, 1]"], "strides=[1, 2, 1] names one twice"),
        (["data.strides=[0]"], "data.strides.0=0: must be at least 1"),
        (["data.strides=[]"], "data.strides=[]: must be at least 1 entry long"),
        (["data.strides=2"], "data.strides=2: must be a list"),
        (["data.normalize=instance"], "data.normalize=instance: must be 'none' or 'dataset'"),
        (["lr=1", "optim.lr=no", "model.depth=x"], "(and 2 more)"),
    ],
)
def test_a_mistake_is_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run("quickstart", overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run=3", "run=3: must be a section"),
        ("run.model=3", "run.model=3: must be a section"),
        ("ladder=[a]", "ladder=[a]: must be a section"),
        ("ladder={a: Ti}", "ladder.a='Ti': must be a section"),
        ("ladder={}", "ladder={}: must be at least 1 entry long"),
        ("ladder={../a: {size: Ti}}", "the key '../a' of 'ladder' must be only letters"),
        ("ladder={1: {size: Ti}}", "the key 1 of 'ladder' must be text"),
        ("windows=16", "windows=16: must be a list"),
        ("windows=[16, 16]", "windows=[16, 16] names one twice"),
        ("model.size=S", "unknown key 'model' (did you mean 'run.model'?)"),
        ("run.model.sise=S", "unknown key 'run.model.sise' (did you mean 'run.model.size'?)"),
        ("ladder.E64.widht=3", "unknown key 'ladder.E64.widht' (did you mean 'ladder.E64.width'?)"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_sentence(override: str, sentence: str, tmp_path: Path) -> None:
    """As an override and as a line of a file."""
    with pytest.raises(ConfigError) as caught:
        load_sweep("quickstart", [override])
    assert sentence in str(caught.value)
    key, _, value = override.partition("=")
    if "." not in key:
        file = tmp_path / "sweep.yaml"
        file.write_text(f"extends: quickstart\n{key}: {value}\n")
        with pytest.raises(ConfigError, match=r"^config "):
            load_sweep(str(file))


@pytest.mark.parametrize(
    ("deepspeed", "sentence"),
    [
        ("{name: mine, settings: {zero_optimisation: {}}}", "mine: DeepSpeed has no key"),
        ("{name: mine}", "'engine.deepspeed.settings' is missing"),
        ("3", "engine.deepspeed=3: must be a section"),
    ],
)
def test_a_mistake_in_an_inlined_strategy_is_one_sentence(deepspeed: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run("quickstart", [f"engine.deepspeed={deepspeed}"])
    assert sentence in str(caught.value)
