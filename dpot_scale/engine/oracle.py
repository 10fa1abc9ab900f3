"""DPOT under FairScale OSS and torch DDP: an independent reference for `ZeroEngine`, in fp32.

FairScale is unmaintained, so it is imported late and nothing but tests depends on it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dpot_scale.config.run import RunConfig
from dpot_scale.engine.engine import Rates, Update
from dpot_scale.engine.runtime import World
from dpot_scale.models.dpot.network import DPOT, DPOTOutput
from dpot_scale.models.dpot.sizes import architecture


class OracleEngine:
    """The training interface of `ZeroEngine`; only the optimizer state is sharded."""

    compute_dtype = torch.float32

    def __init__(self, config: RunConfig, world: World) -> None:
        from fairscale.optim.oss import OSS

        self.config = config
        self.world = world
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = DPOT(architecture(config.model), recompute=config.engine)
        self._model = nn.parallel.DistributedDataParallel(model.to(world.device))
        optim = config.optim
        self._optimizer = OSS(
            self._model.parameters(),
            torch.optim.AdamW if optim.decoupled_weight_decay else torch.optim.Adam,
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self._accumulation_steps = config.batch.accumulation_steps(world.world_size)

    def __call__(self, frames_BTCs: Tensor) -> DPOTOutput:
        """Forecast, as the model does."""
        output: DPOTOutput = self._model(frames_BTCs)
        return output

    def train(self) -> None:
        """Put the model in training mode."""
        self._model.train()  # type: ignore[no-untyped-call]

    def eval(self) -> None:
        """Put the model in evaluation mode."""
        self._model.eval()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's mean loss."""
        (loss / self._accumulation_steps).backward()  # type: ignore[no-untyped-call]

    def step(self, rates: Rates) -> Update:
        """Update the weights, unless the global gradient is not finite."""
        for group in self._optimizer.param_groups:
            group["lr"], group["betas"] = rates.lr, rates.betas
        # Infinite: measured, not clipped.
        limit = self.config.optim.gradient_clipping or float("inf")
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), limit)
        applied = norm.isfinite()
        if applied:
            self._optimizer.step()
        self._model.zero_grad()
        return Update(norm.detach(), applied)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the value of each parameter, on the CPU."""
        for name, parameter in self._model.module.named_parameters():
            yield name, parameter.detach().to("cpu")
