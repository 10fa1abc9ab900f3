"""Forecasts of small models, as they were: a change of a network is seen here.

Weights and frames follow from a formula, so they are the same with every version of torch. To write
the file of a new model: `python tests/models/test_golden_forwards.py NAME 'JSON OF ITS CONFIG'`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpot_scale.config.model import config_class
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL

FOLDER = Path(__file__).parents[1] / "golden" / "forwards"


def waves(shape: tuple[int, ...], phase: int) -> Tensor:
    """Numbers without a pattern that a layer could follow."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.3 * torch.sin(0.7 * count + 0.01 * count**1.5 + phase)).float().view(shape)


def forecast(described: dict[str, Any]) -> Tensor:
    model = config_class(described).model_validate(described)
    network = family_of(model).network(model, KEEP_ALL, "float32").eval()
    for index, parameter in enumerate(network.parameters()):
        parameter.data = waves(tuple(parameter.shape), index)
    frames = 2 + 3 * waves((1, model.history, model.channels, *model.space), 100)
    with torch.no_grad():
        return network(frames).frames


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_forecast_is_what_it_was(file: Path) -> None:
    golden = json.loads(file.read_text())
    found = forecast(golden["config"])
    expected = torch.tensor(golden["forecast"]).view(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    name, described = sys.argv[1], json.loads(sys.argv[2])
    values = [round(value, 6) for value in forecast(described).flatten().tolist()]
    content = json.dumps({"config": described, "forecast": values})
    (FOLDER / f"{name}.json").write_text(content + "\n")
