"""Where the first weights of a run come from, and which of them train: a section of a run."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from dpot_scale.config.base import Place, PositiveFloat, PositiveInt, Section


class ComponentConfig(Section):
    """What becomes of one component of the model."""

    redraw: bool = False
    """Whether it is drawn from the seed, whatever the source has."""
    lr: PositiveFloat = 1.0
    """Its learning rates, as a multiple of those of the run."""


def _as_section(value: object) -> object:
    """Validate a mapping as a section alone, so that a mistake in it is not one in a word."""
    return ComponentConfig.model_validate(value) if isinstance(value, Mapping) else value


Component = Annotated[
    Literal["reuse", "redraw", "freeze"] | ComponentConfig, BeforeValidator(_as_section)
]


class AdapterConfig(Section):
    """Pairs of narrow matrices that are added to those of the blocks (LoRA, Hu et al. 2021).

    They and the components that `components` lets train are all that trains. At the end of the run
    they are merged: `model.safetensors` holds a plain model.
    """

    rank: PositiveInt = 8
    """Columns of the first matrix of a pair and rows of the second."""


class StartConfig(Section):
    """Where the first weights of a run come from, and which of them train."""

    source: Place | None = None
    """Weights that a new run starts from: a weights file, a run, a checkpoint, or
    models:/NAME/VERSION of MLflow's registry. null: random weights. Resuming needs no option."""
    absent: Literal["refuse", "draw"] = "refuse"
    """What the model needs and the source lacks. refuse: end with a sentence. draw: from the seed,
    as a run without a source does."""
    adapter: AdapterConfig | None = None
    """Small matrices that train in place of the model. null: none."""
    components: dict[str, Component] = Field(default={})
    """What becomes of each component of the model. reuse: it is carried over and trains, unless
    there is an adapter. redraw: it is drawn from the seed. freeze: it is carried over and stays.
    {lr: 0.1}: it trains at a tenth of the rates of the run."""

    @field_validator("components")
    @classmethod
    def _leave_out_what_says_nothing(
        cls, components: dict[str, Any], info: ValidationInfo
    ) -> dict[str, Any]:
        """Keep one spelling of each meaning, since spelling must not decide the identity."""
        simple = {name: _simplest(value) for name, value in components.items()}
        # Beside an adapter nothing trains unless it is said to.
        idle = ["reuse"] if info.data.get("adapter") else ["reuse", ComponentConfig()]
        return {name: value for name, value in simple.items() if value not in idle}

    def redraws(self, component: str) -> bool:
        """Return whether a component is drawn from the seed, whatever the source has."""
        said = self.components.get(component)
        return said == "redraw" or (isinstance(said, ComponentConfig) and said.redraw)

    def rate(self, component: str) -> float:
        """Return the multiple of the learning rates that a component trains at; 0: it is frozen."""
        said = self.components.get(component, "reuse")
        if isinstance(said, ComponentConfig):
            return said.lr
        frozen = said == "freeze" or (said == "reuse" and self.adapter is not None)
        return 0.0 if frozen else 1.0


def _simplest(value: object) -> object:
    """Return `redraw` for a component that is drawn and has the rates of the run."""
    return "redraw" if value == ComponentConfig(redraw=True) else value
