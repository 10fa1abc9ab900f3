"""A model under DeepSpeed ZeRO, stages 0 to 3.

DeepSpeed is imported inside functions: it takes seconds, and it prints unless `start_world` has
quietened it before.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpot_scale.config.run import RunConfig
from dpot_scale.config.strategy import Json
from dpot_scale.engine.engine import Rates, Update, require_fit, shapes_in, with_nan_gradient
from dpot_scale.engine.heap import tune_heap
from dpot_scale.engine.matrices import layouts
from dpot_scale.engine.muon import MATRICES, Muon, muon_groups
from dpot_scale.engine.network import FACTOR, Group, build, freeze_and_group, optimizer_groups
from dpot_scale.engine.operators import build_host_adam
from dpot_scale.engine.runtime import World, quiet_deepspeed
from dpot_scale.engine.shards import (
    SHARDS,
    errors_at_the_end,
    fairscale_file,
    pickle_stages_by_value,
)
from dpot_scale.engine.state import Snapshot, StoredState
from dpot_scale.engine.zero_state import ZeroState
from dpot_scale.errors import CheckpointError
from dpot_scale.models.families import family_of
from dpot_scale.models.family import Family
from dpot_scale.models.forecaster import Forecast, Forecaster

COMPUTE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALIGNMENT_BYTES, HALF_BYTES = 16, 2


class ZeroEngine:
    """A model that trains, sharded over the ranks as `engine.deepspeed` of the run says.

    A seed means one set of initial weights, for every stage, dtype, device and world size.

    Args:
        config: The run.
        deepspeed_config: What DeepSpeed gets, complete.
        world: The ranks.
    """

    def __init__(self, config: RunConfig, deepspeed_config: Json, world: World) -> None:
        self.config = config
        self.deepspeed_config = deepspeed_config
        self.world = world
        strategy = config.engine.deepspeed
        self.stage = strategy.stage
        self.compute_dtype = COMPUTE_DTYPES[strategy.dtype]
        is_on_host = strategy.optimizer_device != "none" and world.device.type == "cuda"
        if is_on_host and config.optim.kind == "adam":
            with quiet_deepspeed():
                build_host_adam()
        if world.device.type == "cpu":
            tune_heap(returns_memory=strategy.lean)
        self._engine, groups = self._start()
        self._state = None if strategy.hides_state else self._find_state(groups)
        self._accumulation_steps = config.batch.accumulation_steps(world.world_size)
        self._micro_step = 0

    def __call__(self, frames_BTCs: Tensor, conditions_BK: Tensor | None = None, /) -> Forecast:
        """Forecast, as the model does. Collective under stage 3."""
        output: Forecast = self._engine(frames_BTCs, conditions_BK)
        return output

    def train(self) -> None:
        """Put the model in training mode."""
        self._engine.train()

    def eval(self) -> None:
        """Put the model in evaluation mode."""
        self._engine.eval()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's mean loss. Call it accumulation_steps times.

        The update uses the mean over micro-batches and ranks: that of the global batch. Where a
        rank's loss is not finite the whole gradient becomes NaN, so that no rank applies it.
        """
        self._engine.backward(with_nan_gradient(loss))
        self._micro_step += 1
        if self._micro_step < self._accumulation_steps:
            self._engine.step()  # how DeepSpeed counts micro steps; updates nothing

    def step(self, rates: Rates) -> Update:
        """Update the weights, unless the global gradient is not finite."""
        assert self._micro_step == self._accumulation_steps
        self._micro_step = 0
        for group in self._engine.optimizer.param_groups:
            factor = group.get(FACTOR, 1.0)
            if group.get(MATRICES):
                group["lr"] = factor * rates.muon_lr
            else:
                group["lr"], group["betas"] = factor * rates.lr, rates.betas
        if self.stage == 0:
            norm = self._replicated_gradient_norm()
            applied = norm.isfinite()
            # What torch's fused Adam looks at on the device, before it changes anything.
            self._engine.optimizer.found_inf = applied.logical_not().float()
            self._engine.step()
            return Update(norm, applied)
        self._engine.step()
        applied, norm = self._engine.was_step_applied(), self._engine.get_global_grad_norm()
        if self.stage in (1, 2) and not applied:
            # Where the optimizer is offloaded, DeepSpeed would add the next gradients to these.
            averaged = getattr(self._engine.optimizer, "averaged_gradients", {})
            averaged.update(dict.fromkeys(averaged))
        if not isinstance(norm, Tensor):
            norm = torch.full((), norm, device=self.world.device)
        return Update(
            norm.to(self.world.device, torch.float32),  # it is on the host where state is offloaded
            torch.full((), applied, device=self.world.device),
        )

    def snapshot(self) -> Snapshot | None:
        """Return what this rank keeps of the training state, as views of it.

        None where only `save_shards` reaches it: in an optimizer of DeepSpeed's own.
        """
        return None if self._state is None else self._state.snapshot()

    def load_state(self, stored: StoredState) -> None:
        """Continue from a training state that any engine has saved on any number of ranks.

        Collective.

        Raises:
            CheckpointError: the names or shapes are not this model's, or this engine keeps its
                state where nothing but DeepSpeed puts it.
        """
        if self._state is None:
            raise CheckpointError(
                f"engine.deepspeed={self.config.engine.deepspeed.name} keeps training state where "
                "only DeepSpeed puts it, and the checkpoint was saved under another one: continue "
                "the run with that, or start a new one from its weights with start.source"
            )
        require_fit(stored.shapes, self._state.shapes)
        for name, parameter in self._parameters():
            self._set(parameter, stored.whole(name).to(self.world.device))
        self._state.load(stored)

    def save_shards(self, folder: Path) -> None:
        """Write this rank's part of the training state under `folder`. Collective.

        Raises:
            DiskError: this rank cannot write its part; the others may have written theirs.
        """
        pickle_stages_by_value()
        with errors_at_the_end(self._engine, folder):
            self._engine.save_checkpoint(str(folder), tag=SHARDS, save_latest=False)

    def load_shards(self, folder: Path) -> None:
        """Continue from what DeepSpeed wrote by itself on the same number of ranks. Collective.

        Raises:
            CheckpointError: another engine wrote it.
        """
        if (folder / fairscale_file(self.world.rank)).is_file():
            raise CheckpointError(
                f"{folder} was saved with engine.kind=fairscale by an earlier version: continue "
                "the run with that"
            )
        with quiet_deepspeed():  # its optimizer for bf16 prints a line for debugging
            path, _ = self._engine.load_checkpoint(str(folder), tag=SHARDS)
        if path is None:
            raise CheckpointError(f"{folder} holds no {SHARDS}/ to resume from")
        _let_skip(self._engine.optimizer)  # what was loaded has a loss scaler of its own

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and the fp32 master of each parameter, whole, on the CPU.

        Each is gathered when it is asked for, so every rank must go through all of them.
        """
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in self._parameters():
            if self.stage == 0 or not parameter.requires_grad:
                master = self._whole(parameter)
            else:
                master = safe_get_full_fp32_param(parameter)
            yield name, master.to("cpu", torch.float32)

    def load_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Set weights and masters from whole fp32 tensors, the same on every rank. Collective.

        Raises:
            CheckpointError: the names or shapes are not this model's.
        """
        shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in self._parameters()}
        require_fit(shapes_in(parameters), shapes)
        for name, parameter in self._parameters():
            value = parameters[name].detach().to(self.world.device, torch.float32)
            self._set(parameter, value)

    def _find_state(self, groups: Sequence[Sequence[nn.Parameter]]) -> ZeroState:
        return ZeroState(
            self._engine,
            dict(self._parameters()),
            groups,
            stage=self.stage,
            scales=self.compute_dtype == torch.float16,
            world=self.world,
        )

    def _start(self) -> tuple[Any, list[list[nn.Parameter]]]:
        """Return DeepSpeed's engine, and the parameters of each group of its optimizer."""
        import deepspeed

        model = self._build()
        parameters = dict(model.named_parameters())
        if self.world.device.type == "cuda":
            parameters = dict(sorted(parameters.items(), key=lambda item: _ends_unaligned(item[1])))
        family = family_of(self.config.model)
        groups = freeze_and_group(parameters, family, self.config.start)
        muon = self._muon(groups, family) if self.config.optim.kind == "muon" else None
        given = (  # DeepSpeed replaces them
            [list(group["params"]) for group in muon.param_groups]
            if muon
            else [list(group.parameters.values()) for group in groups]
        )
        with quiet_deepspeed():
            engine, *_ = deepspeed.initialize(
                model=model,
                optimizer=muon,
                model_parameters=None if muon else optimizer_groups(groups),
                config=self.deepspeed_config,
            )
        if muon:
            muon.place(layouts(engine.optimizer, muon.matrices, self.stage, self.world))
        if self.stage in (1, 2):
            # DeepSpeed examines every gradient by itself, in thousands of kernels, before it takes
            # the norm, which says the same.
            engine.optimizer.check_overflow = lambda **_: None
        _let_skip(engine.optimizer)
        return engine, given

    def _muon(self, groups: Sequence[Group], family: Family[Any]) -> Muon:
        # Half precision is fast and precise enough, where a device has products of it.
        is_fast = self.world.device.type == "cuda" and self.compute_dtype != torch.float32
        dtype = torch.bfloat16 if is_fast else torch.float32
        return Muon(muon_groups(groups, family), self.config.optim, dtype)

    def _build(self) -> Forecaster:
        """Build the model; under stage 3 it never exists whole on a rank."""
        import deepspeed

        options = self.config.engine
        make = partial(build, self.config, options.spectral_dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            if self.stage < 3:
                model = make()
            else:
                # Drawn on the CPU in fp32, as a plain model is, and only then cut and cast.
                in_fp32 = self.deepspeed_config | {"bf16": {}, "fp16": {}}
                with deepspeed.zero.Init(config_dict_or_path=in_fp32, tensor_overrides=()):
                    model = make()
                for parameter in model.parameters():
                    parameter.data = parameter.data.to(self.compute_dtype)
                    shard: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
                    shard.data = shard.data.to(self.compute_dtype)
        if options.compile:
            model.compile_blocks()
        return model

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self._engine.module.named_parameters())

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        """Return a parameter that no optimizer has a master of. Collective under stage 3."""
        import deepspeed

        if self.stage < 3:
            return parameter.detach()
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def _set(self, parameter: nn.Parameter, value: Tensor) -> None:
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        if self.stage < 3:
            parameter.data.copy_(value)
            safe_set_full_fp32_param(parameter, value)
            return
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self.world.is_main:
                parameter.data.copy_(value)
        if not parameter.requires_grad:  # it has no master
            return
        # The last shard is padded: no parameter need divide by the number of ranks.
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = nn.functional.pad(
            value.flatten(), (0, size * self.world.world_size - value.numel())
        )
        safe_set_local_fp32_param(parameter, padded[self.world.rank * size :][:size])

    def _replicated_gradient_norm(self) -> Tensor:
        """Return the norm of the averaged gradients, which stage 0 keeps on every rank."""
        gradients = [p.grad for _, p in self._parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)


def _let_skip(optimizer: Any) -> None:  # noqa: ANN401 - DeepSpeed is untyped
    """Let fp16 skip a step at its least loss scale too: how many end a run is said elsewhere."""
    if hasattr(optimizer, "loss_scaler"):
        optimizer.loss_scaler.raise_error_at_min_scale = False


def _ends_unaligned(parameter: nn.Parameter) -> bool:
    """Return whether what lies behind a half-precision parameter in memory lies askew.

    DeepSpeed packs parameters one behind another, in the order it is given. A GPU multiplies
    matrices that do not begin at a multiple of 16 bytes at a sixth of its speed, so those that end
    at one come first (benchmarks/gpu_2026-11.md).
    """
    size = getattr(parameter, "ds_numel", parameter.numel())
    return bool(size % (ALIGNMENT_BYTES // HALF_BYTES))
