"""A model under FairScale's OSS and torch's DistributedDataParallel, in fp32.

It computes the same as `ZeroEngine` and shares no code with DeepSpeed, so where the two agree, a
cluster trains as it should. Only the state of the optimizer is sharded. On a GPU, OSS waits for the
device once in each step. FairScale is unmaintained, so it is imported late.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpot_scale.config.run import RunConfig
from dpot_scale.engine.engine import Rates, Update, require_fit, shapes_in, with_nan_gradient
from dpot_scale.engine.heap import tune_heap
from dpot_scale.engine.network import FACTOR, build, freeze_and_group, optimizer_groups
from dpot_scale.engine.runtime import World
from dpot_scale.engine.shards import MODEL_FILE, fairscale_file
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
from dpot_scale.errors import CheckpointError
from dpot_scale.models.families import family_of
from dpot_scale.models.forecaster import Forecast
from dpot_scale.models.recompute import require_fairscale


class _WithZeroGradient(torch.autograd.Function):
    """Returns frames, and gives the logits, which no loss looks at, a gradient of zero.

    DistributedDataParallel demands a gradient of every parameter; it would search for those without
    one parameter by parameter, on the host. DeepSpeed puts zeros there, too.
    """

    @staticmethod
    def forward(ctx: Any, frames_BTCs: Tensor, logits: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(logits)
        return frames_BTCs.view_as(frames_BTCs)

    @staticmethod
    def backward(ctx: Any, gradient_BTCs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        (logits,) = ctx.saved_tensors
        return gradient_BTCs, torch.zeros_like(logits)


class FairscaleEngine:
    """A model that trains: each rank has the whole model and a part of the optimizer's state.

    A seed means the initial weights of `ZeroEngine`.
    """

    compute_dtype = torch.float32

    def __init__(self, config: RunConfig, world: World) -> None:
        OSS = require_fairscale("fairscale.optim.oss").OSS
        self.config = config
        self.world = world
        if world.device.type == "cpu":
            tune_heap(returns_memory=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = build(config, "float32")
        groups = freeze_and_group(
            dict(model.named_parameters()), family_of(config.model), config.start
        )
        self._model = nn.parallel.DistributedDataParallel(model.to(world.device))
        optim = config.optim
        self._optimizer = OSS(
            optimizer_groups(groups),
            torch.optim.AdamW if optim.decoupled_weight_decay else torch.optim.Adam,
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,  # the one that looks at `found_inf`
        )
        self._accumulation_steps = config.batch.accumulation_steps(world.world_size)
        self._micro_step = 0

    def __call__(self, frames_BTCs: Tensor, conditions_BK: Tensor | None = None, /) -> Forecast:
        """Forecast, as the model does. Collective in the backward pass of the last micro step."""
        last = self._micro_step == self._accumulation_steps - 1
        self._model.require_backward_grad_sync = last  # as `no_sync` does around a forward
        forecast: Forecast = self._model(frames_BTCs, conditions_BK)
        if forecast.logits is None:
            return forecast
        frames = _WithZeroGradient.apply(*forecast)  # type: ignore[no-untyped-call]
        return Forecast(frames, forecast.logits)

    def train(self) -> None:
        """Put the model in training mode."""
        self._model.train()  # type: ignore[no-untyped-call]

    def eval(self) -> None:
        """Put the model in evaluation mode."""
        self._model.eval()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's mean loss. Call it accumulation_steps times.

        Where a rank's loss is not finite the whole gradient becomes NaN, so that no rank applies
        it.
        """
        share = with_nan_gradient(loss) / self._accumulation_steps
        share.backward()  # type: ignore[no-untyped-call]
        self._micro_step += 1

    def step(self, rates: Rates) -> Update:
        """Update the weights, unless the global gradient is not finite."""
        assert self._micro_step == self._accumulation_steps
        self._micro_step = 0
        for group in self._optimizer.param_groups:
            group["lr"], group["betas"] = group.get(FACTOR, 1.0) * rates.lr, rates.betas
        # Infinite: measured, not clipped.
        limit = self.config.optim.gradient_clipping or float("inf")
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), limit).detach()
        applied = norm.isfinite()
        # Fused Adam looks at it on the device, before it changes anything.
        self._optimizer.optim.found_inf = applied.logical_not().float()
        self._optimizer.step()
        self._model.zero_grad()
        return Update(norm, applied)

    def snapshot(self) -> Snapshot:
        """Return the parameters that this rank updates, and their moments, as views of them."""
        world, states = self.world, self._optimizer.optim.state
        frozen = [(n, p) for n, p in self._parameters() if not p.requires_grad]
        parts = [
            *parts_of(self._held(), states),
            *(
                Part(name, WEIGHT, 0, value.detach().reshape(-1))
                for name, value in frozen[world.rank :: world.world_size]
            ),
        ]
        return Snapshot(shapes_in(dict(self._parameters())), parts, steps_of(states))

    def load_state(self, stored: StoredState) -> None:
        """Continue from a training state that any engine has saved on any number of ranks.

        Raises:
            CheckpointError: the names or shapes are not this model's.
        """
        require_fit(stored.shapes, shapes_in(dict(self._parameters())))
        for name, parameter in self._parameters():
            parameter.data.copy_(stored.whole(name))
        load_moments(self._held(), self._optimizer.optim.state, stored)

    def save_shards(self, folder: Path) -> None:
        """Do not call it: `snapshot` reaches all that there is."""
        raise AssertionError(folder)

    def load_shards(self, folder: Path) -> None:
        """Continue from what an earlier version wrote on the same number of ranks.

        Raises:
            CheckpointError: another engine wrote it.
        """
        if not (folder / fairscale_file(self.world.rank)).is_file():
            raise CheckpointError(
                f"{folder} was saved with engine.kind=deepspeed by an earlier version: continue "
                "the run with that"
            )
        self._load(torch.load(folder / MODEL_FILE, map_location="cpu", weights_only=True)["module"])
        state: dict[str, Any] = torch.load(
            folder / fairscale_file(self.world.rank),
            map_location=self.world.device,
            weights_only=True,
        )
        self._optimizer.optim.load_state_dict(state)

    def _held(self) -> list[Held]:
        """Return the parameters that this rank updates."""
        names = {parameter: name for name, parameter in self._parameters()}
        return [
            Held(parameter, [Place(names[parameter], 0, 0, parameter.numel())])
            for group in self._optimizer.optim.param_groups
            for parameter in group["params"]
        ]

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the value of each parameter, on the CPU."""
        for name, parameter in self._parameters():
            yield name, parameter.detach().to("cpu")

    def load_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Set all parameters from whole fp32 tensors, the same on every rank.

        Raises:
            CheckpointError: the names or shapes are not this model's.
        """
        require_fit(shapes_in(parameters), shapes_in(dict(self._parameters())))
        self._load(parameters)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        model: nn.Module = self._model.module
        return model.named_parameters()

    def _load(self, parameters: Mapping[str, Tensor]) -> None:
        # In place: OSS sends the parameters from buffers that they are views of.
        for name, parameter in self._parameters():
            parameter.data.copy_(parameters[name])
