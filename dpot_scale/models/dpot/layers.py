"""The convolutions of DPOT as matrix products over latent states with the channels last.

Each kernel is either a point or a patch that does not overlap its neighbours, so every
convolution is one product, and none is a memory layout that a library has to reorder. Parameters
have the shapes and names of the convolutions they stand for.

Legend: B windows, T frames, C fields, s the space axes of the grid, h those of the latent grid,
P latent points, c points of a patch, I and O channels in and out.
"""

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dpot_scale.models.adapter import Adaptable
from dpot_scale.models.derived import MOST_KEPT, Derived
from dpot_scale.models.patches import patches
from dpot_scale.models.product import Product, final_product


class Convolution(Adaptable):
    """The weight and the bias of a convolution, drawn as torch draws them."""

    def __init__(self, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.derived = Derived()
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        bound = prod(shape[1:]) ** -0.5
        nn.init.uniform_(self.bias, -bound, bound)


class Pointwise(Convolution):
    """A 1x1 convolution: (..., I) to (..., O)."""

    matrices = ("weight",)

    def __init__(self, inputs: int, outputs: int, space_dims: int) -> None:
        super().__init__((outputs, inputs, *[1] * space_dims), outputs)

    def forward(self, x_I: Tensor) -> Tensor:
        """Return (..., O)."""
        if self.derived.is_kept:
            return self.derived(None, self._final)(x_I)
        product: Tensor = _PointwiseProduct.apply(x_I, self.weight, self.bias)  # type: ignore[no-untyped-call]
        if self.adapters is not None:
            product = product + self.adapters["weight"](x_I)
        return product

    def _final(self) -> Product:
        return final_product(self.adapted("weight").flatten(1), self.bias)


class PointwiseRows(Pointwise):
    """A 1x1 convolution that gives its matrix away, to be merged with a product that follows.

    The parameters are still used only inside this module, as ZeRO-3 demands.
    """

    def forward(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return copies of the matrix (I, O) and of the bias (O)."""
        # Copies: views would outlive the gathered parameter they look into.
        return self.weight.flatten(1).t().clone(), self.bias.clone()


class PatchesIn(Convolution):
    """The convolution from frames, with their coordinates, to one row per patch."""

    def __init__(self, channels: int, outputs: int, patch: int, space_dims: int) -> None:
        inputs = channels + space_dims + 1  # the place on each axis, and the time
        super().__init__((outputs, inputs, *[patch] * space_dims), outputs)
        self.patch = patch

    def forward(self, frames_BTCs: Tensor) -> Tensor:
        """Return (B, P, T, O) in the dtype of the parameters."""
        _, history, channels, *space = frames_BTCs.shape
        dtype, device = self.weight.dtype, self.weight.device
        weight_OIc = self.weight.flatten(2)
        fields = weight_OIc[:, :channels].flatten(1)
        places, time = weight_OIc[:, channels:-1].flatten(1), weight_OIc[:, -1].sum(1)

        x_BhTCc = patches(frames_BTCs, self.patch).to(dtype, memory_format=torch.contiguous_format)
        x_BPTc = x_BhTCc.flatten(1, len(space)).flatten(3)
        # The coordinates are the same in every window, and each in every frame or at every point.
        place_PO = _place_patches(tuple(space), self.patch, dtype, device) @ places.t() + self.bias
        time_TO = torch.linspace(0, 1, history, device=device).to(dtype).unsqueeze(1) * time
        if self.derived.is_kept:
            y_BPTO = self.derived(None, lambda: final_product(fields))(x_BPTc)
        else:
            y_BPTO = x_BPTc @ fields.t()
        return y_BPTO + (place_PO.unsqueeze(1) + time_TO)


class PatchesOut(Convolution):
    """The transposed convolution from latent points to patches."""

    def __init__(self, inputs: int, outputs: int, patch: int, space_dims: int) -> None:
        super().__init__((inputs, outputs, *[patch] * space_dims), outputs)

    def forward(self, x_BhI: Tensor) -> Tensor:
        """Return (B, *latent, c, O): the points of each patch, row by row."""
        x_PI = x_BhI.flatten(0, -2)
        if self.derived.is_kept:
            y_Po = self.derived(None, self._final)(x_PI)
        else:
            weight_Io, bias_o = self._by_point()
            y_Po = torch.addmm(bias_o, x_PI, weight_Io)
        return y_Po.view(*x_BhI.shape[:-1], -1, len(self.bias))

    def _final(self) -> Product:
        weight_Io, bias_o = self._by_point()
        return final_product(weight_Io.t(), bias_o)

    def _by_point(self) -> tuple[Tensor, Tensor]:
        """Return weight (I, c O) and bias (c O): the outputs of each point of a patch together."""
        weight_IcO = self.weight.flatten(2).transpose(1, 2)
        return weight_IcO.flatten(1), self.bias.repeat(weight_IcO.shape[1])


class _PointwiseProduct(torch.autograd.Function):
    """`linear` with the weight of a 1x1 convolution.

    A view of the weight, which `linear` would keep for its backward, keeps a parameter that ZeRO-3
    has gathered in memory; the parameter itself may be freed and gathered again.
    """

    @staticmethod
    def forward(ctx: Any, x_I: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x_I, weight)
        return linear(x_I, weight.flatten(1), bias)

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401
        grad_O: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x_I, weight = ctx.saved_tensors
        _, trains_weight, trains_bias = ctx.needs_input_grad  # not where they are frozen
        grad_NO, x_NI = grad_O.flatten(0, -2), x_I.flatten(0, -2)
        grad_x = grad_NO @ weight.flatten(1)
        grad_weight = (grad_NO.t() @ x_NI).view_as(weight) if trains_weight else None
        return grad_x.view_as(x_I), grad_weight, grad_NO.sum(0) if trains_bias else None


@lru_cache(maxsize=MOST_KEPT)
def _place_patches(
    space: tuple[int, ...], patch: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return (P, D c): the place on each space axis, from 0 to 1, at every point of each patch."""
    with torch.inference_mode(False):
        axes = [torch.linspace(0, 1, size, device=device) for size in space]
        place_11Ds = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None, None]
        place_PDc = patches(place_11Ds, patch).flatten(0, 1 + len(space))
        return place_PDc.flatten(1).to(dtype)
