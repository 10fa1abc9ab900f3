"""Arrays to frames and back; tests/serving/test_forecaster.py does it through a model."""

import numpy as np
import torch

from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.serving.frames import read_history

VOLUME = DPOTConfig.model_validate({"space_dims": 3, "grid": 8, "channels": 2, "history": 2})


def test_a_volume_has_three_axes_of_space() -> None:
    given = np.arange(2 * 2 * 8**3, dtype=np.float64).reshape(2, 2, 8, 8, 8)
    history = read_history(given, VOLUME, None)
    assert (history.is_batch, history.names) == (False, ("0", "1"))
    assert history.frames_BTCs.shape == (1, 2, 2, 8, 8, 8)
    frames = history.frames_BTCs.to(history.dtype)
    again = history.as_given(frames, channel_axis=2)
    assert isinstance(again, np.ndarray)
    np.testing.assert_array_equal(again, given)


def test_a_history_is_never_written_to() -> None:
    given = torch.zeros(1, 2, 2, 8, 8, 8)
    history = read_history(given, VOLUME, ("a", "b"))
    assert not history.is_numpy
    assert history.dtype == torch.float32
    channel = history.as_given(history.frames_BTCs[:, 0])
    assert isinstance(channel, torch.Tensor)
    assert channel.shape == (1, 2, 8, 8, 8)
