"""Which runs are the same: by what decides their numbers, and not by how it is spelled."""

from pathlib import Path

import pytest
from pydantic import create_model

from dpot_scale.config.identity import LEFT_OUT, Contents, identity
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.run import ObjectiveConfig, RunConfig
from dpot_scale.config.strategy import Json, Strategy

CONTENTS = Contents(datasets={"a": "1"})
FIRST = str(Path(__file__).parents[1] / "golden" / "first_quickstart.yaml")  # sets few fields
RUN = load_run(FIRST)
BF16 = "engine.deepspeed=zero3_bf16"


def identity_of(*overrides: str) -> str:
    return identity(load_run(FIRST, overrides), CONTENTS)


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "output=/elsewhere",
        "data.root=/elsewhere",
        "data.suite=null",
        "evaluation.trajectories=3",
        "evaluation.every=8",
        "tracking.log_every=1",
        "tracking.mlflow_uri=null",
        "checkpoint.keep=3",
        "batch.micro_batch=auto",
        "engine.deepspeed=zero1_bf16",
        "engine.deepspeed=zero3_bf16_offload",
        "engine.activation_checkpointing=full",
        "engine.compile=true",
        "objective.unroll=1",  # its default
        "model.mlp_ratio=1",  # that of its size
    ],
)
def test_what_does_not_decide_the_numbers_does_not_count(override: str) -> None:
    assert identity_of(BF16, override) == identity_of(BF16)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "windows=8192",
        "model.size=S",
        "model.depth=5",
        "objective.noise=0",
        "model.target=residual",
        "optim.lr=1e-5",
        "optim.reference_width=64",
        "batch.global_batch=8",
        "data.trajectories=4",
        "data.weights.swe_pdb_generated=2",
        "data.sampling=repeat",
        "data.normalize=dataset",
        "engine.deepspeed=zero3_fp32",
        "engine.deepspeed=zero3_bf16_lean",
        "engine.spectral_dtype=float32",
    ],
)
def test_what_decides_the_numbers_counts(override: str) -> None:
    assert identity_of(BF16, override) != identity_of(BF16)


def test_a_json_counts_by_what_it_decides(tmp_path: Path) -> None:
    def with_json(path: Path, text: str) -> str:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return identity_of(f"engine.deepspeed={path}")

    one = with_json(tmp_path / "a" / "z.json", '{"zero_optimization": {"stage": 1}}')
    assert with_json(tmp_path / "b" / "y.json", '{"zero_optimization": {"stage": 1}}') == one
    assert with_json(tmp_path / "a" / "z.json", '{"zero_optimization": {"stage": 3}}') == one
    bf16 = '{"zero_optimization": {"stage": 1}, "bf16": {"enabled": true}}'
    assert with_json(tmp_path / "a" / "z.json", bf16) != one


def test_a_size_counts_by_its_dimensions() -> None:
    named = identity_of("model.size=Ti")
    spelled = ["width=512", "depth=4", "heads=4", "mlp_ratio=1", "out_layer_dim=32"]
    overrides = [f"model.{dimension}" for dimension in spelled]
    assert identity_of("model.size=Ti", *overrides) == named
    assert identity_of("model.size=H", *overrides) == named
    assert identity_of("model.size=H", *overrides[1:]) != named


def test_a_model_of_another_family_with_the_same_fields_is_another() -> None:
    def of_family(name: str) -> str:
        family = create_model(name, __base__=type(RUN.model), family=(str, name))
        return identity(RUN.model_copy(update={"model": family()}), CONTENTS)

    assert of_family("one") != of_family("other")


@pytest.mark.parametrize(
    "more",
    [
        {"prescale_gradients": False},
        {"gradient_predivide_factor": 1},
        {"fp16": {"enabled": False}},
        {"data_types": {"grad_accum_dtype": "fp32"}},
        {"communication_data_type": "fp32"},
    ],
)
def test_what_a_json_says_though_it_is_the_default_does_not_count(more: Json) -> None:
    assert precision_of(more) == precision_of({})


@pytest.mark.parametrize(
    "more",
    [
        {"prescale_gradients": True},
        {"gradient_predivide_factor": 2},
        {"communication_data_type": "bf16"},
    ],
)
def test_how_a_json_adds_gradients_counts(more: Json) -> None:
    assert precision_of(more) != precision_of({})


def precision_of(more: Json) -> Json:
    return Strategy(name="z", settings={"zero_optimization": {"stage": 3}} | more).precision


def test_other_data_and_another_start_count() -> None:
    others = [
        Contents(datasets={"a": "2"}),
        Contents(datasets={"b": "1"}),
        Contents(datasets={"a": "1"}, start="3"),
        Contents(datasets={"a": "1"}, start="4"),
    ]
    found = {identity(RUN, contents) for contents in (CONTENTS, *others)}
    assert len(found) == 1 + len(others)


def test_a_new_field_that_has_its_default_changes_no_identity() -> None:
    """In a section and at the top: else each version would orphan all runs before it."""
    objective = create_model("Objective", __base__=ObjectiveConfig, invented=(float, 0.5))
    newer = create_model(
        "Newer", __base__=RunConfig, objective=(objective, objective()), invented=(int, 7)
    )
    values = RUN.model_dump()
    same = newer.model_validate(values)
    assert dump(same).count("invented") == 2
    assert identity(same, CONTENTS) == identity(RUN, CONTENTS)
    other = newer.model_validate(values | {"invented": 8})
    assert identity(other, CONTENTS) != identity(RUN, CONTENTS)


def test_what_is_left_out_exists() -> None:
    for key, below in LEFT_OUT.items():
        section = getattr(RUN, key)
        for name in below if isinstance(below, set) else ():
            assert name in type(section).model_fields


def test_a_width_of_reference_counts_for_its_own_family_alone() -> None:
    """However it is spelled; without one the rates are the same for every width."""

    def of(*settings: str) -> str:
        return identity(load_run("quickstart", settings), Contents(datasets={}))

    assert of() == of("optim.reference_width=128") == of("optim.reference_width={dpot: 128}")
    assert of() != of("optim.reference_width={dpot: 64}")
    fno = "model.family=fno"
    assert of(fno) == of(fno, "optim.reference_width=null")
    assert of(fno) != of(fno, "optim.reference_width=128")
    assert of(fno, "optim.reference_width={fno: 128}") == of(fno, "optim.reference_width=128")
