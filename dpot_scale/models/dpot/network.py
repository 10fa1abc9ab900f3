"""DPOT for fields in two and three dimensions (PAPER section 1).

Legend: B windows, T history frames, C fields, s the space axes of the grid (h those of the latent
grid), E width. Names inside the state dict are those of the released weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dpot_scale.config.run import EngineConfig
from dpot_scale.errors import DataError
from dpot_scale.models.dpot.layers import (
    PatchesIn,
    PatchesOut,
    Pointwise,
    PointwiseRows,
    grid_from_patches,
)
from dpot_scale.models.dpot.sizes import NORM_GROUPS, Architecture
from dpot_scale.models.dpot.spectral import SpectralMixer
from dpot_scale.models.recompute import runners

# Keeps the standardisation of a constant field finite (the published value).
STD_FLOOR = 1e-6


class DPOTOutput(NamedTuple):
    """A forecast and a guess of the dataset. A tuple, because ZeRO-3 looks for tensors in those."""

    frames: Tensor  # (B, horizon, C, *space), fp32
    logits: Tensor  # (B, num_datasets), fp32


class DPOT(nn.Module):
    """Maps `history` frames of a field to the next `horizon` frames and to dataset logits.

    Parameters may have any float dtype. Frames are cast to it on entry, the statistics of
    `normalize` stay in fp32, and the Fourier part in `spectral_dtype` if that is more precise.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        recompute: EngineConfig | None = None,
        spectral_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        arch = architecture
        self.architecture = arch
        self.patch_embed = PatchEmbedding(arch)
        self.pos_embed = nn.Parameter(
            torch.empty(1, arch.width, *[arch.latent_grid] * arch.space_dims)
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.time_agg_layer = TimeAggregation(arch)
        if arch.normalize:
            self.scale_feats_mu = nn.Linear(2 * arch.channels, arch.width)
            self.scale_feats_sigma = nn.Linear(2 * arch.channels, arch.width)
        self.blocks = nn.ModuleList(Block(arch, spectral_dtype) for _ in range(arch.depth))
        self._run_blocks = runners(self.blocks, recompute) if recompute else list(self.blocks)
        self.cls_head = _dataset_head(arch)
        self.out_layer = _output_layers(arch)

    def forward(self, frames_BTCs: Tensor) -> DPOTOutput:
        """Forecast from frames of shape (B, history, C, *space), in fp32.

        Raises:
            DataError: the frames have another shape.
        """
        self._check_shape(frames_BTCs)
        if self.architecture.normalize:
            return self._forward_normalized(frames_BTCs)
        return self._decode(self._encode(frames_BTCs))

    def compile_blocks(self) -> None:
        """Compile the blocks with torch.compile when they first run.

        They share their code, so all of them cost one compilation.
        """
        for block in self.blocks:
            # Not `block.compile()`: the hooks that ZeRO-3 puts around a forward must stay outside.
            block.__dict__["forward"] = torch.compile(block.forward)

    def _forward_normalized(self, frames_BTCs: Tensor) -> DPOTOutput:
        """Forecast the standardised field; its mean and scale enter as two latent features."""
        over = (1, *range(3, frames_BTCs.ndim))
        frames_BTCs = frames_BTCs.float()
        points = frames_BTCs[0, :, 0].numel()
        mean_B1C1 = frames_BTCs.mean(over, keepdim=True)
        centred_BTCs = frames_BTCs - mean_B1C1
        # Not `std`, which takes seven times as long on CPU.
        norm_B1C1 = torch.linalg.vector_norm(centred_BTCs, dim=over, keepdim=True)
        std_B1C1 = norm_B1C1 / (points - 1) ** 0.5 + STD_FLOOR
        z_BhE = self._encode(centred_BTCs / std_B1C1)

        statistics_B2C = torch.cat([mean_B1C1.flatten(1), std_B1C1.flatten(1)], dim=1)
        statistics_B2C = statistics_B2C.to(z_BhE.dtype)
        per_channel = (len(z_BhE), *[1] * self.architecture.space_dims, self.architecture.width)
        sigma_B1E = self.scale_feats_sigma(statistics_B2C).view(per_channel)
        mu_B1E = self.scale_feats_mu(statistics_B2C).view(per_channel)
        output = self._decode(torch.addcmul(mu_B1E, sigma_B1E, z_BhE))
        return output._replace(frames=output.frames * std_B1C1 + mean_B1C1)

    def _encode(self, frames_BTCs: Tensor) -> Tensor:
        """Return the latent state (B, *latent, E).

        All that follows the GELU of the patch embedding is linear up to the first block. Its
        products are merged into one matrix, and into one state for what no frame decides; both
        cost less than a single window would without the merger.
        """
        features_BPk, rows_RE, bias_E = self.patch_embed(frames_BTCs)
        position_PE = self.pos_embed[0].flatten(1).t() + bias_E
        operator_kE, state_PE = self.time_agg_layer(rows_RE, position_PE)
        z_BPE: Tensor = features_BPk @ operator_kE + state_PE
        arch = self.architecture
        return z_BPE.view(-1, *[arch.latent_grid] * arch.space_dims, arch.width)

    def _decode(self, z_BhE: Tensor) -> DPOTOutput:
        for run_block in self._run_blocks:
            z_BhE = run_block(z_BhE)
        arch = self.architecture
        logits = self.cls_head(z_BhE.flatten(1, -2).mean(1))
        forecast_BFs = grid_from_patches(self.out_layer(z_BhE), arch.patch).float()
        frames = forecast_BFs.view(-1, arch.horizon, arch.channels, *forecast_BFs.shape[2:])
        return DPOTOutput(frames, logits.float())

    def _check_shape(self, frames_BTCs: Tensor) -> None:
        arch = self.architecture
        expected = (arch.history, arch.channels, *[arch.grid] * arch.space_dims)
        if frames_BTCs.shape[1:] != expected:
            raise DataError(
                f"the model takes frames of shape (B, T, C, *space) = (B, "
                f"{', '.join(map(str, expected))}), got {tuple(frames_BTCs.shape)}"
            )


class PatchEmbedding(nn.Module):
    """Frames to features of their patches; the last product is left to the temporal aggregation."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dims = arch.space_dims
        self.proj = nn.Sequential(
            PatchesIn(arch.channels, arch.patch_width, arch.patch, dims),
            nn.GELU(),
            PointwiseRows(arch.patch_width, arch.width, dims),
        )

    def forward(self, frames_BTCs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, P, T R), and the matrix (R, E) and bias (E) to apply to each R."""
        convolution, activation, rows = self.proj
        features_BPTR = activation(convolution(frames_BTCs))
        return features_BPTR.flatten(2), *rows()


class TimeAggregation(nn.Module):
    """z = sum_t W_t^T (cos(gamma t) z_t), t from 0 to 1; `mlp` drops the cosine."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        frames, width = arch.history, arch.width
        self.w = nn.Parameter(torch.randn(frames, width, width) / (frames * width**0.5))
        self.gamma: nn.Parameter | None = None
        if arch.time_aggregation == "exp_mlp":
            self.gamma = nn.Parameter(2 ** torch.linspace(-10, 10, width).unsqueeze(0))

    def forward(self, rows_RE: Tensor, constant_PE: Tensor) -> tuple[Tensor, Tensor]:
        """Merge with what comes before, where z_t = features_t rows + constant.

        Returns:
            The matrix (T R, E) for the features of all frames, and what the constant adds (P, E).
        """
        weight_TEE: Tensor = self.w
        if self.gamma is not None:
            time_T1 = torch.linspace(0, 1, len(self.w), device=rows_RE.device).unsqueeze(1)
            # Phases reach 1024 radians: fp32, whatever the parameters are.
            phase_TE = torch.cos(time_T1 * self.gamma.float()).to(weight_TEE.dtype)
            weight_TEE = weight_TEE * phase_TE.unsqueeze(2)
        operator_TRE = torch.bmm(rows_RE.expand(len(weight_TEE), -1, -1), weight_TEE)
        return operator_TRE.flatten(0, 1), constant_PE @ weight_TEE.sum(0)


class Block(nn.Module):
    """x + MLP(norm2(mixer(norm1(x)))): the mixer holds the only other residual."""

    def __init__(self, arch: Architecture, spectral_dtype: torch.dtype) -> None:
        super().__init__()
        width, hidden, dims = arch.width, arch.mlp_ratio * arch.width, arch.space_dims
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.filter = SpectralMixer(width, arch.heads, arch.kept_modes, spectral_dtype)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)
        self.mlp = nn.Sequential(
            Pointwise(width, hidden, dims), nn.GELU(), Pointwise(hidden, width, dims)
        )

    def forward(self, x_BhE: Tensor) -> Tensor:
        """Return the next latent state (B, *latent, E)."""
        mixed_BhE = self.mix(x_BhE)
        update_BhE: Tensor = self.mlp(_channels_last(self.norm2, mixed_BhE))
        return x_BhE + update_BhE

    def mix(self, x_BhE: Tensor) -> Tensor:
        """Return what the MLP sees before it is normalised: few of a block's FLOPs."""
        mixed_BhE: Tensor = self.filter(_channels_last(self.norm1, x_BhE))
        return mixed_BhE


def _channels_last(norm: nn.GroupNorm, x_BhE: Tensor) -> Tensor:
    """Normalise (B, *latent, E) through torch's kernel for 2D images with the channels last."""
    x_BEP1 = x_BhE.flatten(1, -2).unsqueeze(2).permute(0, 3, 1, 2)
    y_BEP1: Tensor = norm(x_BEP1)
    return y_BEP1.permute(0, 2, 3, 1).reshape(x_BhE.shape)


def _dataset_head(arch: Architecture) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(arch.width, arch.width),
        nn.GELU(),
        nn.Linear(arch.width, arch.width),
        nn.GELU(),
        nn.Linear(arch.width, arch.num_datasets),
    )


def _output_layers(arch: Architecture) -> nn.Sequential:
    """Return the layers from (B, *latent, E) to (B, *latent, points of a patch, C horizon)."""
    hidden, dims = arch.out_layer_dim, arch.space_dims
    return nn.Sequential(
        PatchesOut(arch.width, hidden, arch.patch, dims),
        nn.GELU(),
        Pointwise(hidden, hidden, dims),
        nn.GELU(),
        Pointwise(hidden, arch.channels * arch.horizon, dims),
    )
