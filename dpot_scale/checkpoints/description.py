"""Describes weights in words: architecture, parameters, keys and cost."""

from pathlib import Path

from dpot_scale.checkpoints.weights_file import Weights
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL


def describe(path: Path, weights: Weights) -> str:
    """Return what is in weights, as lines of text.

    Args:
        path: Where they lie.
        weights: What was read there.
    """
    model, state, data = weights
    family = family_of(model)
    count, flops = family.parameters(model), family.flops(model, KEEP_ALL)
    lines = [f"{path}", "", "architecture"]
    lines += [f"  {name:<20}{value}" for name, value in model.dimensions().items()]
    if data is not None:
        lines += ["", "trained on"]
        lines += [
            f"  {name:<20}{', '.join(channels.names)}" for name, channels in data.datasets.items()
        ]
        if data.shapes is not None:
            lines += [f"  {'data.shapes':<20}{data.shapes}"]
    lines += ["", f"{'parameters':<22}{'number':>15}{'share':>8}"]
    lines += [
        f"  {part:<20}{number:>15,}{number / count.total:>8.1%}"
        for part, number in count.components.items()
    ]
    lines += [f"  {'total':<20}{count.total:>15,}"]
    lines += ["", f"{'keys':<22}{'tensors':>15}  dtype"]
    for part in dict.fromkeys(key.split(".")[0] for key in state):
        tensors = [tensor for key, tensor in state.items() if key.split(".")[0] == part]
        dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        lines.append(f"  {part:<20}{len(tensors):>15}  {', '.join(dtypes)}")
    lines += ["", f"forward: {flops.forward / 1e9:.3g} GFLOP per window"]
    return "\n".join(lines)
