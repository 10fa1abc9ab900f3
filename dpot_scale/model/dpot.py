"""DPOT for fields in two and three dimensions (PAPER section 1).

Legend: B windows, T history frames, C fields, s the space axes of the grid (h those of the latent
grid), E width. Names inside the state dict are those of the released weights.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dpot_scale.errors import DataError
from dpot_scale.model.sizes import NORM_GROUPS, Architecture
from dpot_scale.model.spectral import SpectralMixer

CONVOLUTION: dict[int, type[nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d | nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
# Keeps the standardisation of a constant field finite (the published value).
STD_FLOOR = 1e-6


class DPOTOutput(NamedTuple):
    """A forecast and a guess of the dataset. A tuple, because ZeRO-3 looks for tensors in those."""

    frames: Tensor  # (B, horizon, C, *space), fp32
    logits: Tensor  # (B, num_datasets), fp32


class DPOT(nn.Module):
    """Maps `history` frames of a field to the next `horizon` frames and to dataset logits.

    Parameters may have any float dtype. Frames are cast to it on entry, the Fourier part and the
    statistics of `normalize` stay in fp32.
    """

    def __init__(
        self, architecture: Architecture, *, activation_checkpointing: bool = False
    ) -> None:
        super().__init__()
        arch = architecture
        self.architecture = arch
        self.activation_checkpointing = activation_checkpointing
        self.patch_embed = PatchEmbedding(arch)
        self.pos_embed = nn.Parameter(
            torch.empty(1, arch.width, *[arch.latent_grid] * arch.space_dims)
        )
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.time_agg_layer = TimeAggregation(arch)
        if arch.normalize:
            self.scale_feats_mu = nn.Linear(2 * arch.channels, arch.width)
            self.scale_feats_sigma = nn.Linear(2 * arch.channels, arch.width)
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.depth))
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
        z_BEh = self._encode(frames_BTCs)
        return self._decode(z_BEh)

    def _forward_normalized(self, frames_BTCs: Tensor) -> DPOTOutput:
        """Forecast the standardised field; its mean and scale enter as two latent features."""
        over = (1, *range(3, frames_BTCs.ndim))
        frames_BTCs = frames_BTCs.float()
        mean_B1C1 = frames_BTCs.mean(over, keepdim=True)
        std_B1C1 = frames_BTCs.std(over, keepdim=True) + STD_FLOOR
        z_BEh = self._encode((frames_BTCs - mean_B1C1) / std_B1C1)

        statistics_B2C = torch.cat([mean_B1C1.flatten(1), std_B1C1.flatten(1)], dim=1)
        statistics_B2C = statistics_B2C.to(z_BEh.dtype)
        per_channel = (*z_BEh.shape[:2], *[1] * self.architecture.space_dims)
        sigma_BE1 = self.scale_feats_sigma(statistics_B2C).view(per_channel)
        mu_BE1 = self.scale_feats_mu(statistics_B2C).view(per_channel)
        output = self._decode(sigma_BE1 * z_BEh + mu_BE1)
        return output._replace(frames=output.frames * std_B1C1 + mean_B1C1)

    def _encode(self, frames_BTCs: Tensor) -> Tensor:
        z_BTEh = self.patch_embed(frames_BTCs.to(self.pos_embed.dtype)) + self.pos_embed
        z_BEh: Tensor = self.time_agg_layer(z_BTEh)
        return z_BEh

    def _decode(self, z_BEh: Tensor) -> DPOTOutput:
        for block in self.blocks:
            if self.activation_checkpointing:  # blocks draw no random numbers
                z_BEh = checkpoint(block, z_BEh, use_reentrant=False, preserve_rng_state=False)
            else:
                z_BEh = block(z_BEh)
        logits = self.cls_head(z_BEh.flatten(2).mean(2))
        forecast = self.out_layer(z_BEh).float()
        arch = self.architecture
        frames = forecast.view(-1, arch.horizon, arch.channels, *forecast.shape[2:])
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
    """Frames with coordinates to latent points, each frame by itself."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        convolution = CONVOLUTION[arch.space_dims]
        self.proj = nn.Sequential(
            convolution(
                arch.channels + arch.coordinates, arch.patch_width, arch.patch, stride=arch.patch
            ),
            nn.GELU(),
            convolution(arch.patch_width, arch.width, 1),
        )

    def forward(self, frames_BTCs: Tensor) -> Tensor:
        """Return the latent frames (B, T, E, *latent)."""
        batch, history, _, *space = frames_BTCs.shape
        place_TDs = _coordinates(history, space, frames_BTCs.device).to(frames_BTCs.dtype)
        x_BTCs = torch.cat([frames_BTCs, place_TDs.expand(batch, *place_TDs.shape)], dim=2)
        z_NEh: Tensor = self.proj(x_BTCs.flatten(0, 1))  # N = B T
        return z_NEh.view(batch, history, *z_NEh.shape[1:])


class TimeAggregation(nn.Module):
    """z = sum_t W_t^T (cos(gamma t) z_t), t from 0 to 1; `mlp` drops the cosine."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        frames, width = arch.history, arch.width
        self.w = nn.Parameter(torch.randn(frames, width, width) / (frames * width**0.5))
        self.gamma: nn.Parameter | None = None
        if arch.time_aggregation == "exp_mlp":
            self.gamma = nn.Parameter(2 ** torch.linspace(-10, 10, width).unsqueeze(0))

    def forward(self, z_BTEh: Tensor) -> Tensor:
        """Merge the latent frames (B, T, E, *latent) into one state (B, E, *latent)."""
        weight_TEE: Tensor = self.w
        if self.gamma is not None:
            time_T1 = torch.linspace(0, 1, len(self.w), device=z_BTEh.device).unsqueeze(1)
            # Phases reach 1024 radians: fp32, whatever the parameters are.
            phase_TE = torch.cos(time_T1 * self.gamma.float()).to(weight_TEE.dtype)
            # Scaling the weights, not the latents, keeps no second copy of all latent frames.
            weight_TEE = weight_TEE * phase_TE.unsqueeze(2)
        # One product over frames and channels together.
        merged_BEp: Tensor = weight_TEE.flatten(0, 1).t() @ z_BTEh.flatten(3).flatten(1, 2)
        return merged_BEp.view(*merged_BEp.shape[:2], *z_BTEh.shape[3:])


class Block(nn.Module):
    """x + MLP(norm2(mixer(norm1(x)))): the mixer holds the only other residual."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        convolution = CONVOLUTION[arch.space_dims]
        width, hidden = arch.width, arch.mlp_ratio * arch.width
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.filter = SpectralMixer(width, arch.heads, arch.kept_modes)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)
        # 1x1 convolutions, not Linear: twice as fast on CPUs where MKL does not serve them well.
        self.mlp = nn.Sequential(
            convolution(width, hidden, 1), nn.GELU(), convolution(hidden, width, 1)
        )

    def forward(self, x_BEh: Tensor) -> Tensor:
        """Return the next latent state (B, E, *latent)."""
        update_BEh: Tensor = self.mlp(self.norm2(self.filter(self.norm1(x_BEh))))
        return x_BEh + update_BEh


def _dataset_head(arch: Architecture) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(arch.width, arch.width),
        nn.GELU(),
        nn.Linear(arch.width, arch.width),
        nn.GELU(),
        nn.Linear(arch.width, arch.num_datasets),
    )


def _output_layers(arch: Architecture) -> nn.Sequential:
    convolution, transposed = CONVOLUTION[arch.space_dims], TRANSPOSED[arch.space_dims]
    return nn.Sequential(
        transposed(arch.width, arch.out_layer_dim, arch.patch, stride=arch.patch),
        nn.GELU(),
        convolution(arch.out_layer_dim, arch.out_layer_dim, 1),
        nn.GELU(),
        convolution(arch.out_layer_dim, arch.channels * arch.horizon, 1),
    )


def _coordinates(history: int, space: list[int], device: torch.device) -> Tensor:
    """Return (T, D, *space): the place on each space axis, then the time, all from 0 to 1."""
    axes = [torch.linspace(0, 1, size, device=device) for size in (history, *space)]
    time, *place = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([*place, time], dim=1)
