"""The keys of all metrics, in the spool of a run and in MLflow.

`train/...` and `perf/...` are recorded every `log_every` steps, `eval/...` and `valid/...` after an
evaluation, `checkpoint/...` after a save. `data/windows` and `compute/train_flops` are in all, so
that any curve can be drawn against them; their last values are the totals. What is one number for a
run, as `final/...`, is at step 0. `system/...` is what each machine does; MLflow has a tab for it.
"""

from collections.abc import Mapping

LOSS = "train/loss"  # mean over the steps that changed the weights
GRADIENT_NORM = "train/grad_norm"
LEARNING_RATE = "train/lr"
ZERO_TARGETS = "train/zero_targets"  # fields of targets that the loss left out, if it did
SKIPPED_STEPS = "train/skipped_steps"  # steps since the last record that changed no weights

WINDOWS_PER_SECOND = "perf/windows_per_second"  # of all ranks together
STEP_SECONDS = "perf/step_seconds"
DATA_WAIT_FRACTION = "perf/data_wait_fraction"  # of the time
MODEL_TFLOPS_PER_SECOND = "perf/model_tflops_per_second"
MFU = "perf/mfu"  # model FLOP/s over the peak of the devices, where that is known

SAVE_SECONDS = "checkpoint/save_seconds"  # for which training waited
UPLOAD_SECONDS = "checkpoint/upload_seconds"  # of the newest copy, at the first save that knew it

PEAK_GIB = "memory/peak_gib"  # of all ranks together
SECONDS = "time/seconds"  # of training and evaluation, in the attempt that finished
SLOWEST_RANK = "time/slowest_rank"  # the one that waits least for the others
RANK_SPREAD = "time/rank_spread"  # 1 - own time of the fastest rank / own time of the slowest one
WINDOWS = "data/windows"  # that the weights were trained on so far, repeats among them
QUARANTINED = "data/quarantined"  # windows so far that could not be read, if there were some
TRAJECTORIES = "data/trajectories"  # to train on, of all datasets together
TRAIN_FLOPS = "compute/train_flops"  # model FLOPs so far
PARAMETERS = "model/params"
BLOCK_PARAMETERS = "model/block_params"

# Of a sweep: the power of the parameters by which the error falls with its 95 % interval, and what
# the smaller sizes say of the largest one.
LAW_EXPONENT = "law/exponent"
LAW_EXPONENT_LOW = "law/exponent_low"
LAW_EXPONENT_HIGH = "law/exponent_high"
LAW_PREDICTED = "law/predicted"
LAW_PREDICTED_LOW = "law/predicted_low"
LAW_PREDICTED_HIGH = "law/predicted_high"
LAW_MEASURED = "law/measured"
TRIALS_FINISHED = "trials/finished"
TRIALS_FAILED = "trials/failed"
TOTAL_FLOPS = "compute/total_flops"  # of training, of all finished trials
DEVICE_HOURS = "compute/device_hours"  # of all attempts

REL_L2 = "rel_l2"  # the score that a terminal shows
ONE_STEP_REL_L2 = "one_step_rel_l2"
# rel_l2 / that of repeating the last known frame: below 1 is better than that
OVER_PERSISTENCE = "over_persistence"
MEAN = "mean"  # in the place of a dataset: over all of them


def system_key(node: int, name: str) -> str:
    """Return the key of what a machine of a run does; they are numbered in the order of ranks."""
    return f"system/node_{node}/{name}"


def score_key(dataset: str, score: str = REL_L2, split: str = "test") -> str:
    """Return the key of a held-out score: `eval/...`, or `valid/...` of the valid split."""
    return f"{'eval' if split == 'test' else split}/{dataset}/{score}"


def final_key(score: str, dataset: str | None = None) -> str:
    """Return the key of a score at the end of a run: of a dataset, or the mean of all."""
    return f"final/{dataset}/{score}" if dataset else f"final/{score}"


def held_out_errors(metrics: Mapping[str, float], split: str = "test") -> dict[str, float]:
    """Return dataset -> rel_l2 from a record of an evaluation, with the mean of all."""
    start, end = score_key("|", split=split).split("|")
    return {
        key.removeprefix(start).removesuffix(end): value
        for key, value in metrics.items()
        if key.startswith(start) and key.endswith(end)
    }
