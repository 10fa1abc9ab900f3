"""Models of a wanted size: the width that gives so many parameters, or so many FLOPs.

Pure: no torch here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from dpot_scale.config.design import DOTS
from dpot_scale.config.model import FAMILIES, AnyModel, ModelConfig
from dpot_scale.config.sentences import nearest, sentence
from dpot_scale.errors import ConfigError
from dpot_scale.models.families import family_of
from dpot_scale.models.family import KEEP_ALL

# Between two sizes where nothing says how many lie there.
RATIO = 2.0
# How far the size of the best width may be from the wanted one: widths come in steps.
TOLERANCE = 0.25
WIDEST_STEP = 4096
LARGEST_WIDTH = 2**20

_MODEL: TypeAdapter[ModelConfig] = TypeAdapter(AnyModel)
Measure = Literal["flops", "parameters"]
Raw = Mapping[str, Any]  # of a model, before validation


def geometric(given: Sequence[float | str]) -> list[float]:
    """Return sizes, with those that `...` stands for at equal ratios."""
    sizes: list[float] = []
    for number, value in enumerate(given):
        if not isinstance(value, str):
            sizes.append(value)
            continue
        assert value == DOTS
        last = given[number + 1]
        assert not isinstance(last, str)
        ratio = sizes[-1] / sizes[-2] if len(sizes) > 1 else RATIO
        whole = last / sizes[-1]
        # The nearest whole number of steps, so that they end at the given size.
        steps = max(1, round(abs(math.log(whole) / math.log(ratio))))
        sizes += [sizes[-1] * whole ** (step / steps) for step in range(1, steps)]
    return sizes


def label_of_size(parameters: float) -> str:
    """Return a number of parameters for people: 200k, 1.5M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return f"{parameters:.3g}"


def model_from(raw: Raw) -> ModelConfig:
    """Return the model that a raw mapping describes.

    Raises:
        ConfigError: it describes none.
    """
    if (family := raw.get("family")) is not None and family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ConfigError(
            f"there is no family {family!r}{nearest(str(family), FAMILIES)}; choose from: {known}"
        )
    try:
        return _MODEL.validate_python(raw)
    except ValidationError as error:
        raise ConfigError(sentence(ModelConfig, raw, error.errors(), {})) from error


def measured(model: ModelConfig, measure: Measure) -> float:
    """Return the FLOPs of a forward and backward of one window, or all parameters of a model."""
    family = family_of(model)
    if measure == "flops":
        return family.flops(model, KEEP_ALL).training
    return float(family.parameters(model).total)


def of_parameters(below: Raw, parameters: float) -> ModelConfig:
    """Return the model with the width whose number of parameters is nearest to the wanted one.

    Args:
        below: What the model is, apart from its width.
        parameters: The wanted number.

    Raises:
        ConfigError: no width comes near.
    """
    return _by_width(below, "parameters", parameters)


def matching_model(reference: ModelConfig, below: Raw, match: Measure) -> ModelConfig:
    """Return the model of another family that costs or weighs what the reference does.

    Raises:
        ConfigError: no width comes near, or the family does not exist.
    """
    if below.get("family") == reference.family:
        return reference
    return _by_width(below, match, measured(reference, match))


def _by_width(below: Raw, measure: Measure, wanted: float) -> ModelConfig:
    if model_from(below).own_width() is None:
        raise ConfigError(f"a {below['family']} has no width that could be made to match")
    step = _width_step(below)

    def model(steps: int) -> ModelConfig:
        return model_from({**below, "width": steps * step})

    def size(steps: int) -> float:
        return measured(model(steps), measure)

    over = _first(lambda steps: size(steps) >= wanted, LARGEST_WIDTH // step)
    around = [steps for steps in (over - 1, over) if steps]
    best = min(around, key=lambda steps: abs(math.log(size(steps) / wanted)))
    off = size(best) / wanted - 1
    if abs(off) > TOLERANCE:
        raise ConfigError(
            f"no width of the {model(best).family} comes near {wanted:.3g} {measure}: "
            f"width={best * step} has {size(best):.3g}; change other dimensions of run.model"
        )
    return model(best)


def _width_step(below: Raw) -> int:
    """Return the smallest width that the family accepts; its multiples are accepted, too."""
    for step in range(1, WIDEST_STEP + 1):
        try:
            model_from({**below, "width": step})
        except ConfigError:
            continue
        return step
    raise ConfigError(f"no width up to {WIDEST_STEP} suits the model; change run.model")


def _first(holds: Callable[[int], bool], most: int) -> int:
    """Return the least whole number from 1 to `most` for which something holds, and so beyond."""
    low, high = 0, 1
    while high < most and not holds(high):
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
