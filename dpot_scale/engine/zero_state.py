"""Where DeepSpeed keeps the training state that `dpot_scale.engine.state` describes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpot_scale.engine.matrices import pieces_of
from dpot_scale.engine.muon import Muon
from dpot_scale.engine.runtime import World
from dpot_scale.engine.state import (
    WEIGHT,
    Held,
    Part,
    Place,
    Snapshot,
    StoredState,
    load_moments,
    parts_of,
    steps_of,
)

# What a loss scaler for fp16 learns while it trains, by the names that DeepSpeed has for it.
SCALING = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


class ZeroState:
    """The masters and moments of a DeepSpeed engine.

    Args:
        engine: The engine.
        parameters: Of its model, by name.
        groups: The parameters of each group of its optimizer, as they were given to it.
        stage: Of ZeRO.
        scales: Whether the loss is scaled, as in fp16.
        world: The ranks.
    """

    def __init__(
        self,
        engine: Any,  # noqa: ANN401 - DeepSpeed is untyped
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[Sequence[nn.Parameter]],
        *,
        stage: int,
        scales: bool,
        world: World,
    ) -> None:
        self._engine = engine
        self._parameters = parameters
        self._stage = stage
        self._world = world
        self._scaler = engine.optimizer.loss_scaler if scales else None
        names = {parameter: name for name, parameter in parameters.items()}
        in_order = [names[parameter] for group in groups for parameter in group]
        found = pieces_of(engine.optimizer, dict(enumerate(groups)), stage, world.rank)
        self._held = [
            Held(master, [Place(in_order[one.parameter], *one[1:]) for one in pieces])
            for master, pieces in found.items()
        ]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters, though no rank may have the whole of one."""
        return {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in self._parameters.items()}

    def snapshot(self) -> Snapshot:
        """Return what this rank keeps."""
        states = self._engine.basic_optimizer.state
        held = self._held
        if self._stage == 0:  # every rank has all masters, so each saves some
            held = held[self._world.rank :: self._world.world_size]
        parts = [*parts_of(held, states), *self._frozen()]
        scaling = {} if self._scaler is None else vars(self._scaler)
        numbers = {key: float(scaling[key]) for key in SCALING if key in scaling}
        return Snapshot(self.shapes, parts, numbers | steps_of(states))

    def load(self, stored: StoredState) -> None:
        """Set the moments, and what else the next step depends on beside the weights."""
        base = self._engine.basic_optimizer
        in_tensors = isinstance(base, (torch.optim.Adam, Muon))
        load_moments(self._held, base.state, stored, counts_on_device=in_tensors)
        for key in SCALING:
            if hasattr(self._scaler, key) and key in stored.numbers:
                kind = type(getattr(self._scaler, key))
                setattr(self._scaler, key, kind(stored.numbers[key]))

    def _frozen(self) -> Iterator[Part]:
        """Yield the values of what does not train: stage 3 has shared them out."""
        rank, ranks = self._world.rank, self._world.world_size
        frozen = [(n, p) for n, p in self._parameters.items() if not p.requires_grad]
        if self._stage < 3:
            for name, parameter in frozen[rank::ranks]:
                yield Part(name, WEIGHT, 0, parameter.detach().reshape(-1))
            return
        for name, parameter in frozen:
            shard: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
            start = rank * shard.numel()  # the last part is padded
            size = min(shard.numel(), parameter.ds_numel - start)  # type: ignore[attr-defined]
            if size > 0:
                yield Part(name, WEIGHT, start, shard.detach().view(-1)[:size])
