"""The folder layout of Hugging Face, through the mixin of huggingface_hub, an optional package.

A folder holds `model.safetensors`, which says all, and `config.json`, for people and for the hub.
"""

import json
from pathlib import Path
from typing import Any, Self

import torch

from dpot_scale.checkpoints.weights_file import read_weights_file, save_model
from dpot_scale.config.places import HUB_CONFIG, WEIGHTS
from dpot_scale.errors import CheckpointError, ConfigError
from dpot_scale.files import write_whole
from dpot_scale.serving.forecaster import ServedModel

try:
    from huggingface_hub import ModelHubMixin, hf_hub_download
except ImportError as error:
    raise ConfigError("huggingface_hub is not installed: pip install 'dpot_scale[hub]'") from error

CARD = """---
{{ card_data }}
---

A model that forecasts physical fields, made with dpot_scale:

```python
from dpot_scale.serving.hub import HubModel

model = HubModel.from_pretrained("FOLDER_OR_REPOSITORY")
frames = model.rollout(history, steps=50)
```

`config.json` says which frames it takes and what it was trained on.
"""


class HubModel(  # type: ignore[misc]  # its save_pretrained has more options
    ModelHubMixin,
    ServedModel,
    library_name="dpot_scale",
    tags=["pde", "neural-operator"],
    model_card_template=CARD,
):
    """A served model with `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    @classmethod
    def of(cls, model: ServedModel) -> Self:
        """Return the same model with these methods."""
        found = cls.__new__(cls)
        found.__dict__.update(vars(model))
        return found

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights in their precision, and what they are of."""
        weights = self.weights
        save_model(save_directory / WEIGHTS, *weights)
        data = None if weights.data is None else weights.data.model_dump(mode="json")
        content = {"model": weights.model.dimensions(), "data": data}
        write_whole(save_directory / HUB_CONFIG, json.dumps(content, indent=2) + "\n")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        config: dict[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **where: Any,  # noqa: ANN401 - which revision, and from which cache
    ) -> Self:
        """Read what `save_pretrained` has written, from a folder or a repository of the hub."""
        folder = Path(model_id)
        if folder.is_dir():
            path = folder / WEIGHTS
        else:
            path = Path(hf_hub_download(model_id, WEIGHTS, **where))
        weights = read_weights_file(path)
        said = json.loads(json.dumps(weights.model.dimensions()))
        if config is not None and config.get("model") not in (None, said):
            raise CheckpointError(
                f"{model_id}: {HUB_CONFIG} and {WEIGHTS} describe two models; take both from one "
                "place"
            )
        return cls(weights, dtype, device)
