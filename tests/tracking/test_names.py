"""Users and dashboards know the metrics by these keys: none may change."""

from dpot_scale.tracking import names


def test_the_keys_stay() -> None:
    assert {key for name, key in vars(names).items() if name.isupper()} == {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "train/skipped_steps",
        "train/zero_targets",
        "perf/windows_per_second",
        "perf/step_seconds",
        "perf/data_wait_fraction",
        "perf/model_tflops_per_second",
        "perf/mfu",
        "memory/peak_gib",
        "time/seconds",
        "time/slowest_rank",
        "time/rank_spread",
        "data/windows",
        "data/trajectories",
        "data/quarantined",
        "compute/train_flops",
        "model/params",
        "checkpoint/save_seconds",
        "checkpoint/upload_seconds",
        "model/block_params",
        "law/exponent",
        "law/exponent_low",
        "law/exponent_high",
        "law/predicted",
        "law/predicted_low",
        "law/predicted_high",
        "law/measured",
        "trials/finished",
        "trials/failed",
        "compute/total_flops",
        "compute/device_hours",
        "rel_l2",
        "one_step_rel_l2",
        "over_persistence",
        "mean",
    }


def test_a_held_out_score_is_found_by_its_dataset() -> None:
    assert names.score_key("swe", "one_step_rel_l2") == "eval/swe/one_step_rel_l2"
    assert names.final_key("rel_l2", "swe") == "final/swe/rel_l2"
    assert names.final_key("rel_l2") == "final/rel_l2"
    record = {
        "eval/a/rel_l2": 0.25,
        "eval/a/one_step_rel_l2": 0.125,
        "eval/mean/rel_l2": 0.5,
        "train/loss": 1.0,
    }
    assert names.held_out_errors(record) == {"a": 0.25, "mean": 0.5}
    assert names.score_key("swe", split="valid") == "valid/swe/rel_l2"
    assert names.held_out_errors(record | {"valid/a/rel_l2": 0.75}, "valid") == {"a": 0.75}
