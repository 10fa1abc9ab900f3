"""Muon: the update of a matrix is its averaged gradient, made orthogonal (Jordan et al. 2024).

All parameters that are no matrices are Adam's. DeepSpeed has a Muon of its own, which is not used.
It takes a 1x1 convolution for a filter and the spectral weights for one matrix; it measures and
clips the norm of updates instead of gradients; below stage 3 it keeps two copies of the momentum,
in bf16 where gradients are, and at stage 1 in bf16 it refuses what has more than two axes. Here
each stage of ZeRO sees an optimizer like Adam: of flat fp32 masters, with one moment of their size.

Legend: S matrices in a stack, M rows, N columns.
"""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dpot_scale.config.optim import OptimConfig
from dpot_scale.engine.matrices import Layout
from dpot_scale.engine.network import FACTOR, Group
from dpot_scale.engine.update import ITERATIONS
from dpot_scale.models.adapter import as_stack
from dpot_scale.models.family import Family

# a s + b s^3 + c s^5, applied ITERATIONS times, brings a singular value s of (0, 1] near 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
# In a group of parameters: whether they are matrices.
MATRICES = "matrices"


class Muon(torch.optim.Optimizer):
    """Muon for matrices and stacks of matrices, Adam for all else.

    DeepSpeed replaces the parameters by flat masters that hold pieces of them: `place` says where.
    A step is collective then: every rank steps the same masters in the same order.

    Args:
        groups: Groups of parameters, each with a factor of its rates, and with whether they are
            matrices or stacks of them, as `as_stack` reads their shape.
        optim: Rates, decay and momentum.
        dtype: In which matrices are made orthogonal.
    """

    # As torch's fused Adam has it: 1 on the device for a step that must change nothing.
    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        optim: OptimConfig,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        adam = torch.optim.AdamW if optim.decoupled_weight_decay else torch.optim.Adam
        self._adam = adam(
            [parameter for group in groups for parameter in group["params"]],  # replaced in a step
            lr=optim.lr,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        of_matrices = {
            "lr": optim.muon_lr,
            "momentum": optim.muon_momentum,
            "weight_decay": optim.weight_decay,
        }
        of_others = self._adam.param_groups[0]
        super().__init__(
            [(of_matrices if group[MATRICES] else of_others) | group for group in groups], {}
        )
        # As they were before DeepSpeed replaced them.
        self.matrices = {n: list(g["params"]) for n, g in enumerate(groups) if g[MATRICES]}
        self._dtype = dtype
        self._layouts: Mapping[Tensor, Layout] = {}

    def place(self, layouts: Mapping[Tensor, Layout]) -> None:
        """Set where the matrices lie in each master that `step` will find in their group."""
        self._layouts = layouts

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all masters that the groups hold now, some of which DeepSpeed takes out."""
        assert closure is None
        others = []
        for group in self.param_groups:
            if not group[MATRICES]:
                others.append(group)
                continue
            for master in group["params"]:
                self._update(master, group["lr"], group["momentum"], group["weight_decay"])
        self._adam.param_groups, self._adam.state = others, self.state
        self._adam.__dict__["found_inf"] = self.found_inf
        self._adam.step()

    def _update(self, master: Tensor, lr: float, beta: float, weight_decay: float) -> None:
        assert master.grad is not None
        gradient, state = master.grad, self.state[master]
        rate: float | Tensor = lr
        if not state:
            state["momentum"] = torch.zeros_like(master, memory_format=torch.contiguous_format)
        momentum = state["momentum"]
        if self.found_inf is not None:  # a mean of the momentum with itself changes nothing
            gradient = torch.where(self.found_inf > 0, momentum, gradient)
            rate = lr * (1 - self.found_inf)
        momentum.lerp_(gradient, 1 - beta)
        update = gradient.lerp_(momentum, beta).contiguous()  # Nesterov's
        self._layouts[master].apply(self._orthogonal, update.view(-1))
        master.mul_(1 - rate * weight_decay).sub_(update.mul_(rate))

    def _orthogonal(self, matrices: Tensor) -> Tensor:
        """Return the updates of parameters from their gradients, stacked as these are."""
        _, rows, columns = as_stack(matrices.shape[1:])
        stack_SMN = matrices.view(-1, rows, columns)
        # The change of an output then depends on its inputs alone, not on how many outputs are.
        scale = max(1.0, rows / columns) ** 0.5
        return orthogonal(stack_SMN, self._dtype).mul_(scale).view_as(matrices)


def muon_groups(groups: Sequence[Group], family: Family[Any]) -> list[dict[str, Any]]:
    """Return groups as `Muon` takes them: the matrices of all first, then all other parameters."""
    split = [(group.factor, split_matrices(group.parameters, family)) for group in groups]
    kinds = ((True, 0), (False, 1))
    return [
        {"params": parts[part], FACTOR: factor, MATRICES: matrices}
        for matrices, part in kinds
        for factor, parts in split
        if parts[part]
    ]


def split_matrices(
    parameters: Mapping[str, nn.Parameter], family: Family[Any]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that a family names as matrices, and all others."""
    matrices = {
        name
        for name in parameters
        if any(fnmatchcase(name, pattern) for pattern in family.matrices)
    }
    others = [parameter for name, parameter in parameters.items() if name not in matrices]
    return [parameters[name] for name in parameters if name in matrices], others


def orthogonal(matrix_SMN: Tensor, dtype: torch.dtype) -> Tensor:
    """Return matrices with the same singular vectors, whose singular values are about 1, in fp32.

    By the iteration of Newton and Schulz with the polynomial of Jordan et al. (2024), which leaves
    singular values between 0.7 and 1.2: nearer to 1 than Muon needs. Zero remains zero.
    """
    a, b, c = QUINTIC
    norm_S11 = torch.linalg.matrix_norm(matrix_SMN, keepdim=True)
    x_SMN = matrix_SMN / norm_S11.clamp(min=torch.finfo(norm_S11.dtype).tiny)
    is_tall = matrix_SMN.shape[1] > matrix_SMN.shape[2]
    x_SMN = (x_SMN.mT if is_tall else x_SMN).to(dtype)
    for _ in range(ITERATIONS):
        gram_SMM = torch.bmm(x_SMN, x_SMN.mT)
        polynomial_SMM = torch.baddbmm(gram_SMM, gram_SMM, gram_SMM, beta=b, alpha=c)
        x_SMN = torch.baddbmm(x_SMN, polynomial_SMM, x_SMN, beta=a)
    found_SMN: Tensor = (x_SMN.mT if is_tall else x_SMN).to(matrix_SMN.dtype)
    return found_SMN.contiguous()
