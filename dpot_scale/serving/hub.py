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
    from huggingface_hub.errors import HFValidationError
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        **options: Any,  # noqa: ANN401 - those of the mixin, `dtype` and `device`
    ) -> Self:
        """Return the model in a folder, or in a repository of the hub, `OWNER/NAME`.

        Raises:
            CheckpointError: there is none.
        """
        _require_place(pretrained_model_name_or_path)
        try:
            found: Self = super().from_pretrained(pretrained_model_name_or_path, **options)
        except (OSError, HFValidationError) as error:  # of the network, and of the hub
            raise CheckpointError(
                f"{pretrained_model_name_or_path} is no folder here, and the hub does not give it: "
                f"{_first_line(error)}"
            ) from error
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
        path = folder / WEIGHTS
        if not folder.is_dir():
            path = Path(hf_hub_download(model_id, WEIGHTS, **where))
        weights = read_weights_file(path)
        said = json.loads(json.dumps(weights.model.dimensions()))
        if config is not None and config.get("model") not in (None, said):
            raise CheckpointError(
                f"{model_id}: {HUB_CONFIG} and {WEIGHTS} describe two models; take both from one "
                "place"
            )
        return cls(weights, dtype, device)


def _require_place(place: str | Path) -> None:
    """Refuse at once what names no folder with weights here and no repository of the hub.

    Raises:
        CheckpointError: it does.
    """
    folder = Path(place)
    if folder.is_dir():
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"{folder} holds no {WEIGHTS}, which `save_pretrained` writes")
        return
    names = str(place).split("/")
    is_local = isinstance(place, Path) or len(names) != 2 or not names[1] or names[0][:1] in ".~"
    if is_local or Path(names[0]).is_dir():
        what = "is a file, and no folder" if folder.is_file() else "does not exist"
        raise CheckpointError(
            f"{place} {what}: give a folder that `save_pretrained` has written, or a repository of "
            "the hub as OWNER/NAME"
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).split("\n")), type(error).__name__).strip()
