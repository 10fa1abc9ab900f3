"""The description of weights says what is in them."""

from pathlib import Path

from dpot_scale.checkpoints.description import describe
from dpot_scale.checkpoints.weights import read
from dpot_scale.data.channels import Channels, TrainingData

RELEASED = Path(__file__).parents[1] / "golden" / "official_format_small.pth"


def test_every_parameter_and_key_is_counted() -> None:
    weights = read(RELEASED)
    lines = describe(RELEASED, weights).splitlines()
    assert lines[0] == str(RELEASED)
    total = sum(tensor.numel() for tensor in weights.state.values())
    (said,) = [line.split()[1] for line in lines if line.startswith("  total")]
    assert said == f"{total:,}"
    first = lines.index(next(line for line in lines if line.startswith("keys")))
    rows = [line.split() for line in lines[first + 1 :] if line.startswith("  ")]
    assert sum(int(tensors) for _, tensors, _ in rows) == len(weights.state)
    assert {dtype for _, _, dtype in rows} == {"float32"}
    assert lines[-1].startswith("forward: ")


def test_what_it_was_trained_on_is_said_where_that_is_known() -> None:
    weights = read(RELEASED)
    assert "trained on" not in describe(RELEASED, weights)
    channels = Channels(
        names=("u", "v"), scored=(True, True), mean=(0, 0), std=(1, 1), frame_interval=1
    )
    known = weights._replace(data=TrainingData(datasets={"flow": channels}))
    assert "\ntrained on\n  flow                u, v\n\n" in describe(RELEASED, known)
    assert known.data is not None
    native = weights._replace(data=known.data.model_copy(update={"shapes": "native"}))
    assert "u, v\n  data.shapes         native\n\n" in describe(RELEASED, native)
