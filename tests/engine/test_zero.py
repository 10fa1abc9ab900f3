"""ZeRO on two gloo ranks equals plain torch: everything here was trained by zero_ranks.py."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import CreateLossScaler
from deepspeed.runtime.precision_config import DeepSpeedFP16Config

from dpot_scale.config.model import ModelConfig
from dpot_scale.engine.runtime import start_world
from dpot_scale.engine.strategy import read_strategy
from dpot_scale.engine.zero import _ends_unaligned, _let_skip
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.sizes import architecture
from dpot_scale.training.loop import MAX_SKIPPED_IN_A_ROW

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(290)]

WORLD_SIZE = 2
SCRIPT = Path(__file__).with_name("zero_ranks.py")
STAGES = ["zero0", "zero1", "zero2", "zero3"]
# The order of summation is all that differs; Adam divides by small numbers.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of rank 0. Compiling DeepSpeed's operator may come first on a fresh machine."""
    output = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(output)],
            env=os.environ
            | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(WORLD_SIZE),
                "LOCAL_SIZE": str(WORLD_SIZE),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    try:
        outputs = [rank.communicate(timeout=280) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, (_, stderr) in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, stderr[-3000:]
    loaded: dict[str, Any] = torch.load(output / "results_0.pt", weights_only=False)
    loaded["shared memory"] = list(Path("/dev/shm").glob(f"deepspeed_*_{port}_*"))
    loaded["stdout"] = "".join(stdout for stdout, _ in outputs)
    return loaded


def assert_same_training(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found["losses"], expected["losses"], **CLOSE)
    torch.testing.assert_close(found["norms"], expected["norms"], **CLOSE)
    assert_same_weights(found["weights"], expected["weights"])


def assert_same_weights(found: dict[str, Any], expected: dict[str, Any], **options: float) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, **(options or CLOSE), msg=name)


EXACT = {"rtol": 0, "atol": 0}


COMPILED = ["zero2_compiled", "zero3_compiled", "zero3_compiled_recomputed"]
GPU_SIZES = ["zero1_gpu_sizes", "zero2_gpu_sizes", "zero3_gpu_sizes"]


@pytest.mark.parametrize("engine", [*STAGES, "oracle", *COMPILED, *GPU_SIZES])
def test_training_equals_plain_torch(engine: str, results: dict[str, Any]) -> None:
    plain = results["plain"]
    assert min(plain["norms"]) > 0.05, "clipping must have an effect"
    assert_same_weights(results[engine]["initial"], plain["initial"], **EXACT)
    assert_same_training(results[engine], plain)


@pytest.mark.parametrize("engine", [*STAGES, "oracle"])
def test_accumulation_changes_nothing(engine: str, results: dict[str, Any]) -> None:
    assert_same_training(results[f"{engine}_accumulated"], results["plain"])


def test_activation_checkpointing_changes_nothing(results: dict[str, Any]) -> None:
    recomputed, kept = results["zero3_recomputed"], results["zero3"]
    assert recomputed["norms"] == kept["norms"]
    assert_same_weights(recomputed["weights"], kept["weights"], **EXACT)


@pytest.mark.parametrize("way", ["every_k", "selective", "fairscale"])
def test_every_way_to_recompute_changes_nothing(way: str, results: dict[str, Any]) -> None:
    recomputed, kept = results[f"zero3_{way}"], results["zero3"]
    assert recomputed["losses"] == kept["losses"]
    assert recomputed["norms"] == kept["norms"]
    assert_same_weights(recomputed["weights"], kept["weights"], **EXACT)


def test_offload_trains_as_the_device_does(results: dict[str, Any]) -> None:
    assert_same_training(results["zero3_offloaded"], results["zero3"])
    offloaded, kept = results["zero3_bf16_offload"]["losses"], results["zero3_bf16"]["losses"]
    assert offloaded == pytest.approx(kept, rel=1e-3)


def test_state_on_disk_needs_a_library(results: dict[str, Any]) -> None:
    if Path("/usr/include/libaio.h").exists():
        pytest.skip("this machine has it")
    assert "zero3_bf16_nvme keeps training state on disk through libaio" in results["nvme"]


@pytest.mark.parametrize("engine", ["zero3_unrolled", "zero3_recomputed_unrolled"])
def test_several_forwards_per_backward(engine: str, results: dict[str, Any]) -> None:
    assert_same_training(results[engine], results["plain_unrolled"])


def test_stage_3_holds_a_share(results: dict[str, Any]) -> None:
    counts = results["partition"]
    assert counts["held"] == 0
    assert counts["shard"] == pytest.approx(counts["whole"] / WORLD_SIZE, rel=1e-2)


@pytest.mark.parametrize("engine", STAGES)
def test_resume_is_bit_equal(engine: str, results: dict[str, Any]) -> None:
    case = results[f"{engine}_resume"]
    assert (case["state"].step, case["state"].windows_seen) == (3, 12)
    assert case["resumed"]["losses"] == case["straight"]["losses"]
    assert case["resumed"]["norms"] == case["straight"]["norms"]
    assert_same_weights(case["resumed"]["weights"], case["straight"]["weights"], **EXACT)


@pytest.mark.parametrize("engine", STAGES)
def test_initialize_from_whole_weights(engine: str, results: dict[str, Any]) -> None:
    case, weights = results[f"{engine}_initialize_from"], results["plain"]["weights"]
    assert any((case["before"][name] != weight).any() for name, weight in weights.items())
    assert_same_weights(case["loaded"], weights, **EXACT)
    # The weights that compute are the masters too: the forecasts and the next steps agree.
    torch.testing.assert_close(case["frames"], results["zero0_initialize_from"]["frames"], **CLOSE)
    torch.testing.assert_close(case["losses"], results["zero0_initialize_from"]["losses"], **CLOSE)


BF16 = [
    "zero1_bf16",
    "zero2_bf16",
    "zero3_bf16",
    "zero3_bf16_lean",
    "zero3_bf16_offload",
    "zero3_bf16_spectral_fp32",
]


@pytest.mark.parametrize("engine", BF16)
def test_bf16_starts_and_learns_as_fp32_does(engine: str, results: dict[str, Any]) -> None:
    case = results[engine]
    assert case["dtype"] == torch.bfloat16
    assert_same_weights(case["initial"], results["plain"]["initial"], rtol=2**-8, atol=0)
    assert all(weight.dtype == torch.float32 for weight in case["initial"].values())
    start, end = case["losses"][0], case["losses"][-1]
    in_fp32 = results["zero3_fp32"]["losses"]
    assert end < 0.97 * start
    assert start - end == pytest.approx(in_fp32[0] - in_fp32[-1], rel=0.05)
    assert end != in_fp32[-1]


@pytest.mark.parametrize("engine", [*STAGES, *GPU_SIZES, *BF16[:-1], "zero2_offload"])
def test_a_step_that_is_not_finite_leaves_no_trace(engine: str, results: dict[str, Any]) -> None:
    """One micro-batch of one rank spoils it, before moments exist and later."""
    case = results[f"{engine}_skip"]
    assert case["applied"] == [False] * 4
    assert not case["changed"]
    assert case["losses"] == case["straight"]["losses"]
    assert_same_weights(case["weights"], case["straight"]["weights"], **EXACT)


def test_fp16_reaches_its_least_loss_scale_before_a_run_ends() -> None:
    """What the shipped strategy does where every step overflows; DeepSpeed itself would raise."""
    start_world()  # the loss scaler asks for its rank
    section = read_strategy("zero3_fp16").raw["fp16"]
    arguments = DeepSpeedFP16Config(**section).dynamic_loss_scale_args()
    scaler = CreateLossScaler(torch.float16, 0, True, arguments)
    _let_skip(SimpleNamespace(loss_scaler=scaler))
    scales = []
    for _ in range(MAX_SKIPPED_IN_A_ROW):
        scales.append(scaler.loss_scale)
        scaler.update_scale(True)
    assert scales[0] == 2**16
    assert scales[-1] == 1


@pytest.mark.parametrize("engine", [*STAGES, "zero1_bf16", "zero2_bf16", "zero3_bf16_lean"])
def test_one_process_reads_what_the_ranks_saved(engine: str, results: dict[str, Any]) -> None:
    case = results[f"{engine}_exported"]
    assert_same_weights(case["together"], case["whole"], **EXACT)
    assert list(case["together"]) == list(case["whole"])
    assert not any(weight.requires_grad for weight in case["together"].values())
    assert case["foreign"] == []


def test_ranks_that_do_not_agree_stop_before_the_first_step(results: dict[str, Any]) -> None:
    said = results["agreement"]
    host = socket.gethostname()
    assert said["same"] == ""
    assert re.fullmatch(
        rf"ConfigError: rank 1 on {host} does not see in \S+/1/test what rank 0 wrote there, so "
        "that a checkpoint would lack its part: set `output` to a folder that all machines share",
        said["unshared"],
    )
    mend = "give every machine the same files, or a data.root that all share"
    assert said["other data"] == (
        f"ConfigError: rank 1 on {host} has another dataset a (1) than rank 0 on {host} (0): {mend}"
    )
    assert "has another dataset a (1) than rank 0 on" in said["no data"]


def test_spectral_dtype_reaches_the_model(results: dict[str, Any]) -> None:
    assert results["zero3_bf16_spectral_fp32"]["losses"] != results["zero3_bf16"]["losses"]


def test_any_rank(results: dict[str, Any]) -> None:
    assert results["votes"] == [False, True, True]
    assert results["many_votes"] == [True, False, True]


def test_the_error_of_one_rank_is_that_of_all(results: dict[str, Any]) -> None:
    assert results["error"] == ("SharedDataError", "a bad shard")


def test_no_shared_memory_is_left_behind(results: dict[str, Any]) -> None:
    assert results["shared memory"] == []


def test_deepspeed_leaves_the_terminal_readable(results: dict[str, Any]) -> None:
    assert results["stdout"] == ""


@pytest.mark.parametrize("size", ["Ti", "S", "M", "L", "H"])
def test_on_a_gpu_all_but_small_parameters_begin_aligned_in_a_packed_buffer(size: str) -> None:
    with torch.device("meta"):
        model = DPOT(architecture(ModelConfig.model_validate({"size": size})))
    begins, aligned, total = 0, 0, 0
    for parameter in sorted(model.parameters(), key=_ends_unaligned):
        aligned += parameter.numel() if begins % 8 == 0 else 0  # 16 bytes of bf16
        begins += parameter.numel()
        total += parameter.numel()
    assert aligned > 0.99 * total
