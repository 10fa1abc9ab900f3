"""The keys of all metrics, in the spool of a run and in MLflow.

`train/...` and `perf/...` are recorded every `log_every` steps, `eval/...` and `valid/...` after an
evaluation, `checkpoint/...` after a save.
"""

from collections.abc import Mapping

LOSS = "train/loss"  # mean over the steps that changed the weights
GRADIENT_NORM = "train/grad_norm"
LEARNING_RATE = "train/lr"
SKIPPED_STEPS = "train/skipped_steps"  # steps since the last record that changed no weights

WINDOWS_PER_SECOND = "perf/windows_per_second"  # of all ranks together
STEP_SECONDS = "perf/step_seconds"
DATA_WAIT_FRACTION = "perf/data_wait_fraction"  # of the time
MODEL_TFLOPS_PER_SECOND = "perf/model_tflops_per_second"
MFU = "perf/mfu"  # model FLOP/s over the peak of the devices, where that is known

SAVE_SECONDS = "checkpoint/save_seconds"  # for which training waited
UPLOAD_SECONDS = "checkpoint/upload_seconds"  # of the newest copy that the archive had by then

PEAK_GIB = "memory/peak_gib"  # of all ranks together
PARAMETERS = "model/params"  # recorded once, at step 0

REL_L2 = "rel_l2"  # the score that a terminal shows
MEAN = "mean"  # in the place of a dataset: over all of them


def score_key(dataset: str, score: str = REL_L2, split: str = "test") -> str:
    """Return the key of a held-out score: `eval/...`, or `valid/...` of the valid split."""
    return f"{'eval' if split == 'test' else split}/{dataset}/{score}"


def held_out_errors(metrics: Mapping[str, float], split: str = "test") -> dict[str, float]:
    """Return dataset -> rel_l2 from a record of an evaluation, with the mean of all."""
    start, end = score_key("|", split=split).split("|")
    return {
        key.removeprefix(start).removesuffix(end): value
        for key, value in metrics.items()
        if key.startswith(start) and key.endswith(end)
    }
