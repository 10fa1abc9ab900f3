"""ZeRO on two gloo ranks equals plain torch, with Adam and with Muon.

zero_ranks.py and muon_ranks.py train what is compared here.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler
from deepspeed.runtime.precision_config import DeepSpeedFP16Config

from dpot_scale.config.strategy import read_strategy
from dpot_scale.engine.runtime import start_world
from dpot_scale.engine.zero import _ends_unaligned, _let_skip
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.training.loop import MAX_SKIPPED_IN_A_ROW

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(290)]

STAGES = ["zero0", "zero1", "zero2", "zero3"]
# The order of summation is all that differs; Adam divides by small numbers.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Results:
    """What the cases of a script return on rank 0, by name; each runs when it is asked for."""

    def __init__(self, script: str, ranks: Any, folder: Path) -> None:
        self.script = Path(__file__).with_name(script)
        self.ranks = ranks
        self.folder = folder
        self.found: dict[str, Any] = {}
        self.failed: dict[str, Exception] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self.failed:
            raise self.failed[name]
        if name not in self.found:
            folder = self.folder / name
            folder.mkdir()
            try:
                self.found[name] = self.ranks.run(self.script, "run_case", name, str(folder))
            except Exception as error:
                self.failed[name] = error
                raise
        return self.found[name]


@pytest.fixture(scope="module")
def results(ranks: Any, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results("zero_ranks.py", ranks, tmp_path_factory.mktemp("zero"))


@pytest.fixture(scope="module")
def muon(ranks: Any, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results("muon_ranks.py", ranks, tmp_path_factory.mktemp("muon"))


def assert_same_training(
    found: dict[str, Any], expected: dict[str, Any], **of_weights: float
) -> None:
    torch.testing.assert_close(found["losses"], expected["losses"], **CLOSE)
    torch.testing.assert_close(found["norms"], expected["norms"], **CLOSE)
    assert_same_weights(found["weights"], expected["weights"], **of_weights)


def assert_same_weights(found: dict[str, Any], expected: dict[str, Any], **options: float) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, **(options or CLOSE), msg=name)


EXACT = {"rtol": 0, "atol": 0}


COMPILED = ["zero2_compiled", "zero3_compiled", "zero3_compiled_recomputed"]
GPU_SIZES = ["zero1_gpu_sizes", "zero2_gpu_sizes", "zero3_gpu_sizes"]


@pytest.mark.parametrize("engine", [*STAGES, "fairscale", *COMPILED, *GPU_SIZES])
def test_training_equals_plain_torch(engine: str, results: Results) -> None:
    plain = results["plain"]
    assert min(plain["norms"]) > 0.05, "clipping must have an effect"
    assert_same_weights(results[engine]["initial"], plain["initial"], **EXACT)
    assert_same_training(results[engine], plain)


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_accumulation_changes_nothing(engine: str, results: Results) -> None:
    assert_same_training(results[f"{engine}_accumulated"], results["plain"])


@pytest.mark.parametrize("engine", ["zero3", "fairscale"])
def test_activation_checkpointing_changes_nothing(engine: str, results: Results) -> None:
    recomputed, kept = results[f"{engine}_recomputed"], results[engine]
    assert recomputed["norms"] == kept["norms"]
    assert_same_weights(recomputed["weights"], kept["weights"], **EXACT)


@pytest.mark.parametrize("way", ["every_k", "selective", "fairscale"])
def test_every_way_to_recompute_changes_nothing(way: str, results: Results) -> None:
    recomputed, kept = results[f"zero3_{way}"], results["zero3"]
    assert recomputed["losses"] == kept["losses"]
    assert recomputed["norms"] == kept["norms"]
    assert_same_weights(recomputed["weights"], kept["weights"], **EXACT)


def test_offload_trains_as_the_device_does(results: Results) -> None:
    assert_same_training(results["zero3_offloaded"], results["zero3"])
    offloaded, kept = results["zero3_bf16_offload"]["losses"], results["zero3_bf16"]["losses"]
    assert offloaded == pytest.approx(kept, rel=1e-3)


@pytest.mark.parametrize(
    "engine", ["zero3_unrolled", "zero3_recomputed_unrolled", "fairscale_unrolled"]
)
def test_several_forwards_per_backward(engine: str, results: Results) -> None:
    assert_same_training(results[engine], results["plain_unrolled"])


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_a_residual_starts_at_zero_and_trains_as_plain_torch_does(
    engine: str, results: Results
) -> None:
    """Unrolled and recomputed."""
    plain = results["plain_residual"]
    assert [name for name, weight in plain["initial"].items() if not weight.any()][-2:] == [
        "out_layer.4.weight",
        "out_layer.4.bias",
    ]
    assert_same_weights(results[f"{engine}_residual"]["initial"], plain["initial"], **EXACT)
    assert_same_training(results[f"{engine}_residual"], plain)


@pytest.mark.parametrize("family", ["vit", "fno"])
@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_every_family_trains_as_plain_torch_does(
    engine: str, family: str, results: Results
) -> None:
    """Unrolled and recomputed; what the target `residual` forecasts at first is the last frame."""
    plain = results[f"plain_{family}"]
    assert_same_weights(results[f"{engine}_{family}"]["initial"], plain["initial"], **EXACT)
    assert_same_training(results[f"{engine}_{family}"], plain)


@pytest.mark.parametrize("family", ["vit", "fno"])
@pytest.mark.parametrize("stage", ["zero1", "zero3"])
def test_adapters_of_every_family_train_as_in_plain_torch(
    stage: str, family: str, results: Results
) -> None:
    assert_same_training(results[f"{stage}_{family}_adapter"], results[f"plain_{family}_adapter"])


@pytest.mark.parametrize("family", ["vit", "fno"])
def test_every_family_compiles_resumes_exports_and_learns_in_bf16(
    family: str, results: Results
) -> None:
    assert_same_training(results[f"zero3_{family}_compiled"], results[f"plain_{family}_once"])
    resumed = results[f"zero3_{family}_resume"]
    assert resumed["resumed"]["losses"] == resumed["straight"]["losses"]
    assert_same_weights(resumed["resumed"]["weights"], resumed["straight"]["weights"], **EXACT)
    assert_read(results[f"zero3_{family}_exported"])
    losses = results[f"zero3_bf16_{family}"]["losses"]
    assert losses[-1] < 0.97 * losses[0]


def test_stage_3_holds_a_share(results: Results, ranks: Any) -> None:
    counts = results["partition"]
    assert counts["held"] == 0
    assert counts["shard"] == pytest.approx(counts["whole"] / ranks.SIZE, rel=1e-2)


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_resume_is_bit_equal(engine: str, results: Results) -> None:
    case = results[f"{engine}_resume"]
    assert case["state"].step == 3
    assert case["resumed"]["losses"] == case["straight"]["losses"]
    assert case["resumed"]["norms"] == case["straight"]["norms"]
    assert_same_weights(case["resumed"]["weights"], case["straight"]["weights"], **EXACT)


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_initialize_from_whole_weights(engine: str, results: Results) -> None:
    case, weights = results[f"{engine}_started"], results["plain"]["weights"]
    assert any((case["before"][name] != weight).any() for name, weight in weights.items())
    assert_same_weights(case["loaded"], weights, **EXACT)
    # The weights that compute are the masters too: the forecasts and the next steps agree.
    torch.testing.assert_close(case["frames"], results["zero0_started"]["frames"], **CLOSE)
    torch.testing.assert_close(case["losses"], results["zero0_started"]["losses"], **CLOSE)


BF16 = [
    "zero1_bf16",
    "zero2_bf16",
    "zero3_bf16",
    "zero3_bf16_lean",
    "zero3_bf16_offload",
    "zero3_bf16_spectral_fp32",
]


@pytest.mark.parametrize("engine", BF16)
def test_bf16_starts_and_learns_as_fp32_does(engine: str, results: Results) -> None:
    case = results[engine]
    assert case["dtype"] == torch.bfloat16
    assert_same_weights(case["initial"], results["plain"]["initial"], rtol=2**-8, atol=0)
    assert all(weight.dtype == torch.float32 for weight in case["initial"].values())
    start, end = case["losses"][0], case["losses"][-1]
    in_fp32 = results["zero3_fp32"]["losses"]
    assert end < 0.97 * start
    assert start - end == pytest.approx(in_fp32[0] - in_fp32[-1], rel=0.05)
    assert end != in_fp32[-1]


@pytest.mark.parametrize("engine", BF16[:-1])
def test_a_fresh_residual_in_bf16_is_the_last_frame(engine: str, results: Results) -> None:
    case = results[f"{engine}_fresh"]
    assert torch.equal(case["frames"], case["last"])


@pytest.mark.parametrize(
    "engine", [*STAGES, "fairscale", *GPU_SIZES, *BF16[:-1], "zero2_bf16_offload"]
)
def test_a_step_that_is_not_finite_leaves_no_trace(engine: str, results: Results) -> None:
    """One micro-batch of one rank spoils it, before moments exist and later."""
    case = results[f"{engine}_skip"]
    assert case["applied"] == [False] * 4
    assert not case["changed"]
    assert case["losses"] == case["straight"]["losses"]
    assert_same_weights(case["weights"], case["straight"]["weights"], **EXACT)


def test_fp16_reaches_its_least_loss_scale_before_a_run_ends() -> None:
    """What the shipped strategy does where every step overflows; DeepSpeed itself would raise."""
    start_world()  # the loss scaler asks for its rank
    section = read_strategy("zero3_fp16").settings["fp16"]
    arguments = DeepSpeedFP16Config(**section).dynamic_loss_scale_args()
    scaler = CreateLossScaler(torch.float16, 0, True, arguments)
    _let_skip(SimpleNamespace(loss_scaler=scaler))
    scales = []
    for _ in range(MAX_SKIPPED_IN_A_ROW):
        scales.append(scaler.loss_scale)
        scaler.update_scale(True)
    assert scales[0] == 2**16
    assert scales[-1] == 1


@pytest.mark.parametrize("engine", [*STAGES, "fairscale", *BF16[:4]])
def test_one_process_reads_what_the_ranks_saved(engine: str, results: Results) -> None:
    case = results[f"{engine}_exported"]
    assert_read(case)
    assert list(case["together"]) == list(case["whole"])
    assert not any(weight.requires_grad for weight in case["together"].values())


def assert_read(case: dict[str, Any]) -> None:
    """What is read is what there was, also from the files that earlier versions left."""
    assert_same_weights(case["together"], case["whole"], **EXACT)
    assert_same_weights(case.get("older", case["whole"]), case["whole"], **EXACT)
    assert case.get("foreign", []) == []


MUON = [*STAGES, *BF16[:-1], "zero2_bf16_offload"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("model", ["square", "wide", "vit", "fno"])
def test_muon_equals_plain_torch(stage: str, model: str, muon: Results) -> None:
    found, plain = muon[f"{stage}_{model}"], muon[f"plain_{model}"]
    clipped = plain["norms"][:2] if model == "fno" else plain["norms"]  # the others are smaller
    assert min(clipped) > 0.05, "clipping must have an effect"
    assert_same_training(found, plain)


@pytest.mark.parametrize("stage", STAGES)
def test_accumulation_changes_nothing_with_muon(stage: str, muon: Results) -> None:
    assert_same_training(muon[f"{stage}_accumulated"], muon["plain_square"])


@pytest.mark.parametrize("way", ["recomputed", "compiled", "offloaded", "gpu_sizes"])
def test_muon_is_the_same_however_it_is_run(way: str, muon: Results) -> None:
    assert_same_training(muon[f"zero3_{way}"], muon["zero3_square"])


@pytest.mark.parametrize("strategy", [*BF16[:-1], "zero2_bf16_offload"])
def test_muon_in_bf16_learns_as_in_fp32(strategy: str, muon: Results) -> None:
    assert muon[strategy]["losses"] == pytest.approx(muon["zero3_square"]["losses"], rel=0.05)


@pytest.mark.parametrize("strategy", MUON)
def test_a_step_that_is_not_finite_leaves_no_trace_in_muon(strategy: str, muon: Results) -> None:
    case = muon[f"{strategy}_skip"]
    assert case["applied"] == [False] * 4
    assert not case["changed"]
    assert case["losses"] == case["straight"]["losses"]
    assert_same_weights(case["weights"], case["straight"]["weights"], **EXACT)


@pytest.mark.parametrize("strategy", MUON)
def test_resume_of_muon_is_bit_equal(strategy: str, muon: Results) -> None:
    case = muon[f"{strategy}_resume"]
    assert case["resumed"]["losses"] == case["straight"]["losses"]
    assert_same_weights(case["resumed"]["weights"], case["straight"]["weights"], **EXACT)


@pytest.mark.parametrize("strategy", MUON)
def test_one_process_reads_what_muon_has_saved(strategy: str, muon: Results) -> None:
    assert_read(muon[f"{strategy}_exported"])


@pytest.mark.parametrize("stage", STAGES)
def test_muon_starts_from_whole_weights(stage: str, muon: Results) -> None:
    case, plain = muon[f"{stage}_started"], muon["zero0_started"]
    assert_same_weights(case["loaded"], plain["loaded"], **EXACT)
    torch.testing.assert_close(case["losses"], plain["losses"], **CLOSE)


def test_spectral_dtype_reaches_the_model(results: Results) -> None:
    assert results["zero3_bf16_spectral_fp32"]["losses"] != results["zero3_bf16"]["losses"]


def test_no_shared_memory_is_left_behind(results: Results, ranks: Any) -> None:
    assert results["zero3"]
    buffers = [Path("/dev/shm").glob(f"deepspeed_*_{port}_*") for port in ranks.ports]
    assert [path for paths in buffers for path in paths] == []


def test_deepspeed_leaves_the_terminal_readable(results: Results, ranks: Any) -> None:
    assert results["zero0"]
    assert results["zero3"]
    assert ranks.printed() == ""


@pytest.mark.parametrize("size", ["Ti", "S", "M", "L", "H"])
def test_on_a_gpu_all_but_small_parameters_begin_aligned_in_a_packed_buffer(size: str) -> None:
    with torch.device("meta"):
        model = DPOT(DPOTConfig.model_validate({"size": size}))
    begins, aligned, total = 0, 0, 0
    for parameter in sorted(model.parameters(), key=_ends_unaligned):
        aligned += parameter.numel() if begins % 8 == 0 else 0  # 16 bytes of bf16
        begins += parameter.numel()
        total += parameter.numel()
    assert aligned > 0.99 * total


PARTS = [*STAGES, "fairscale", *BF16[:-1]]


# Gradients of pairs begin at zero, and Adam divides by numbers as small.
PAIRS = {"rtol": 1e-4, "atol": 1e-5}
KINDS = ["parts", "adapter"]  # one that is frozen beside one that is slow; pairs of low rank


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_trains_does_as_in_plain_torch(
    engine: str, kind: str, results: Results
) -> None:
    plain = results[f"plain_{kind}"]
    of_weights = PAIRS if kind == "adapter" else CLOSE
    assert_same_training(results[f"{engine}_{kind}_trained"], plain, **of_weights)
    assert plain["losses"] != results["plain"]["losses"]


@pytest.mark.parametrize("way", ["zero2_adapter_compiled", "zero3_adapter_compiled"])
def test_an_adapter_trains_however_it_is_run(way: str, results: Results) -> None:
    assert_same_training(results[way], results["plain_adapter"], **PAIRS)


@pytest.mark.parametrize("way", ["full", "every_k", "selective", "fairscale"])
def test_recomputing_blocks_that_are_frozen_changes_nothing(way: str, results: Results) -> None:
    """Of pairs alone: what goes into the first block has no gradient."""
    recomputed, kept = results[f"zero3_adapter_{way}"], results["zero3_adapter_trained"]
    assert recomputed["losses"] == kept["losses"]
    assert_same_weights(recomputed["weights"], kept["weights"], **EXACT)


@pytest.mark.parametrize("engine", PARTS)
def test_what_is_frozen_stays_bit_by_bit(engine: str, results: Results) -> None:
    case = results[f"{engine}_parts_trained"]
    for name, before in case["initial"].items():
        assert torch.equal(case["weights"][name], before) == name.startswith("blocks."), name
    case = results[f"{engine}_adapter_trained"]
    trains = {name for name, old in case["initial"].items() if not case["weights"][name].equal(old)}
    assert trains == {n for n in case["initial"] if ".adapters." in n or n.startswith("out_")}


@pytest.mark.parametrize("engine", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_frozen_parts_resumes_bit_equal(
    engine: str, kind: str, results: Results
) -> None:
    case = results[f"{engine}_{kind}_resume"]
    assert case["resumed"]["losses"] == case["straight"]["losses"]
    assert_same_weights(case["resumed"]["weights"], case["straight"]["weights"], **EXACT)


@pytest.mark.parametrize("engine", PARTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_with_frozen_parts_is_put_together_by_one_process(
    engine: str, kind: str, results: Results
) -> None:
    assert_read(results[f"{engine}_{kind}_exported"])


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_frozen_parts_are_loaded_as_they_are(engine: str, results: Results) -> None:
    case, weights = results[f"{engine}_parts_started"], results["plain"]["weights"]
    assert_same_weights(case["loaded"], weights, **EXACT)
    torch.testing.assert_close(case["frames"], results["zero0_started"]["frames"], **CLOSE)


@pytest.mark.parametrize("strategy", MUON)
def test_muon_has_groups_with_rates_of_their_own(strategy: str, muon: Results) -> None:
    case, plain = muon[f"{strategy}_parts_trained"], muon["zero0_parts_trained"]
    if strategy in STAGES:
        assert_same_training(case, plain)
    frozen = {name for name, old in case["initial"].items() if case["weights"][name].equal(old)}
    assert frozen == {name for name in case["initial"] if name.startswith("cls_head.")}
    resumed = muon[f"{strategy}_parts_resume"]
    assert resumed["resumed"]["losses"] == resumed["straight"]["losses"]
    assert_same_weights(resumed["resumed"]["weights"], resumed["straight"]["weights"], **EXACT)
    assert_read(muon[f"{strategy}_parts_exported"])


def test_the_rate_of_a_group_is_that_of_the_run_times_its_factor(muon: Results) -> None:
    """Muon moves matrices by the rate, whatever their gradients are."""
    slow, fast = muon["zero0_parts_trained"], muon["zero0_square"]
    name = "blocks.0.mlp.0.weight"
    moved = [(case["weights"][name] - case["initial"][name]).norm().item() for case in (slow, fast)]
    assert moved[0] == pytest.approx(0.5 * moved[1], rel=0.15)


@pytest.mark.parametrize("strategy", MUON)
def test_muon_leaves_pairs_to_adam(strategy: str, muon: Results, results: Results) -> None:
    case = muon[f"{strategy}_adapter_trained"]
    if strategy in STAGES:
        assert_same_training(case, results["plain_adapter"], **PAIRS)
    resumed = muon[f"{strategy}_adapter_resume"]
    assert resumed["resumed"]["losses"] == resumed["straight"]["losses"]


@pytest.mark.parametrize("engine", [*STAGES, "fairscale"])
def test_weights_are_adapted_alike_under_every_stage(engine: str, results: Results) -> None:
    case, plain = results[f"{engine}_adapted"], results["plain"]["weights"]
    assert_same_weights(case["weights"], results["zero0_adapted"]["weights"], **EXACT)
    assert case["table"] == results["zero0_adapted"]["table"]
    for name, value in case["weights"].items():
        if ".adapters." in name:
            assert torch.equal(value, case["fresh"][name]), name
        elif name.startswith("blocks."):
            assert torch.equal(value, plain[name]), name
    assert torch.equal(case["weights"]["out_layer.4.bias"][:2], plain["out_layer.4.bias"])
    drawn = case["fresh"]["out_layer.4.bias"][2]
    assert case["weights"]["out_layer.4.bias"][2] == drawn
