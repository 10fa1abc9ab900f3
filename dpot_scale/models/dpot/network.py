"""DPOT for fields in two and three dimensions (Hao et al. 2024).

Legend: B windows, T history frames, C fields, s the space axes of the grid (h those of the latent
grid), E width. Names inside the state dict are those of the released weights.
"""

import torch
from torch import Tensor, nn

from dpot_scale.models.conditioning import Conditioning
from dpot_scale.models.derived import Derived
from dpot_scale.models.dpot.config import NORM_GROUPS, DPOTConfig
from dpot_scale.models.dpot.layers import PatchesIn, PatchesOut, Pointwise, PointwiseRows
from dpot_scale.models.dpot.spectral import SpectralMixer
from dpot_scale.models.family import KEEP_ALL, Recompute, SpectralDtype
from dpot_scale.models.forecaster import Forecast, Forecaster, Moments
from dpot_scale.models.patches import cropped, edge_padded, grid_from_patches, pixels
from dpot_scale.models.positions import resized_positions
from dpot_scale.models.product import Product, final_product
from dpot_scale.models.recompute import repeated, runners

SPECTRAL_DTYPES: dict[SpectralDtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


class DPOT(Forecaster):
    """Maps `history` frames of a field to the next `horizon` frames and to dataset logits.

    A field may have any grid. One that is no multiple of the patch is continued by its edge, at the
    end of each axis, and the forecast cut back; on another latent grid than that of the config the
    position embedding is interpolated, and as many Fourier modes are kept as there are.

    Parameters may have any float dtype. Frames are cast to it on entry, and the Fourier part stays
    in `spectral_dtype` if that is more precise.
    """

    def __init__(
        self,
        config: DPOTConfig,
        *,
        recompute: Recompute = KEEP_ALL,
        spectral_dtype: SpectralDtype = "float32",
    ) -> None:
        super().__init__(config, normalize=config.normalize)
        self.config: DPOTConfig = config
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Parameter(torch.empty(1, config.width, *config.latent_grid))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.time_agg_layer = TimeAggregation(config)
        if config.normalize:
            self.scale_feats_mu = nn.Linear(2 * config.channels, config.width)
            self.scale_feats_sigma = nn.Linear(2 * config.channels, config.width)
        dtype = SPECTRAL_DTYPES[spectral_dtype]
        again = recompute.blocks == "selective"
        self.blocks = nn.ModuleList(Block(config, dtype, again) for _ in range(config.depth))
        self._run_blocks = runners(self.blocks, recompute)
        self.cls_head = _dataset_head(config)
        self.out_layer = _output_layers(config)
        self.skip: Pointwise | None = None
        if config.skip_frames:
            seen = config.skip_frames * config.channels
            self.skip = Pointwise(seen, config.out_layer_dim, config.space_dims)
        self.derived = Derived()
        self.ends_in(self.out_layer[-1])
        # Drawn last: all other weights are those of a model without it.
        self.conditioning: Conditioning | None = None
        if config.conditions:
            self.conditioning = Conditioning(len(config.conditions), config.width)

    def predict(self, frames_BTCs: Tensor, moments: Moments | None) -> Forecast:
        """Predict from frames of shape (B, history, C, *space), in fp32."""
        return self._forecast(frames_BTCs, moments, None)

    def predict_told(
        self, frames_BTCs: Tensor, moments: Moments | None, conditions_BK: Tensor
    ) -> Forecast:
        """Predict the same, told the conditions of each window."""
        return self._forecast(frames_BTCs, moments, conditions_BK)

    def _forecast(
        self, frames_BTCs: Tensor, moments: Moments | None, conditions_BK: Tensor | None
    ) -> Forecast:
        """Forecast; the moments of standardised frames enter as two latent features."""
        space = tuple(frames_BTCs.shape[3:])
        frames_BTCs = edge_padded(frames_BTCs, self.config.padded(space))
        z_BhE = self._encode(frames_BTCs)
        if moments is not None:
            z_BhE = self._with_features(z_BhE, moments)
        if self.conditioning is not None:
            z_BhE = self.conditioning(z_BhE, conditions_BK)
        frames, logits = self._decode(z_BhE, frames_BTCs)
        return Forecast(cropped(frames, space), logits)

    def _with_features(self, z_BhE: Tensor, moments: Moments) -> Tensor:
        """Return sigma z + mu, two linear functions of the moments per latent channel."""
        statistics_B2C = torch.cat([moment.flatten(1) for moment in moments], dim=1).to(z_BhE.dtype)
        per_channel = (len(z_BhE), *[1] * self.config.space_dims, self.config.width)
        sigma_B1E = self.scale_feats_sigma(statistics_B2C).view(per_channel)
        mu_B1E = self.scale_feats_mu(statistics_B2C).view(per_channel)
        return torch.addcmul(mu_B1E, sigma_B1E, z_BhE)

    def _encode(self, frames_BTCs: Tensor) -> Tensor:
        """Return the latent state (B, *latent, E).

        All that follows the GELU of the patch embedding is linear up to the first block. Its
        products are merged into one matrix, and into one state for what no frame decides; both
        cost less than a single window would without the merger.
        """
        latent = self.config.latent(tuple(frames_BTCs.shape[3:]))
        features_BPk, rows_RE, bias_E = self.patch_embed(frames_BTCs)

        def merged() -> tuple[Tensor, Tensor]:
            position_PE = resized_positions(self.pos_embed, latent)[0].flatten(1).t() + bias_E
            operator_kE, state_PE = self.time_agg_layer(rows_RE, position_PE)
            return operator_kE, state_PE

        def final() -> tuple[Product, Tensor]:
            operator_kE, state_PE = merged()
            return final_product(operator_kE.t()), state_PE

        z_BPE: Tensor
        if self.derived.is_kept:
            to_latent, state_PE = self.derived(latent, final)
            z_BPE = to_latent(features_BPk) + state_PE
        else:
            operator_kE, state_PE = merged()
            z_BPE = features_BPk @ operator_kE + state_PE
        return z_BPE.view(-1, *latent, self.config.width)

    def _decode(self, z_BhE: Tensor, frames_BTCs: Tensor) -> Forecast:
        for run_block in self._run_blocks:
            z_BhE = run_block(z_BhE)
        config = self.config
        logits = self.cls_head(z_BhE.flatten(1, -2).mean(1))
        to_points, *layers = self.out_layer
        points_BhcO = to_points(z_BhE)
        if self.skip is not None:
            newest_BTCs = frames_BTCs[:, -config.skip_frames :].to(z_BhE.dtype)
            points_BhcO = points_BhcO + self.skip(pixels(newest_BTCs, config.patch))
        for layer in layers:
            points_BhcO = layer(points_BhcO)
        forecast_BFs = grid_from_patches(points_BhcO, config.patch).float()
        frames = forecast_BFs.view(-1, config.horizon, config.channels, *forecast_BFs.shape[2:])
        return Forecast(frames, logits.float())


class PatchEmbedding(nn.Module):
    """Frames to features of their patches; the last product is left to the temporal aggregation."""

    def __init__(self, config: DPOTConfig) -> None:
        super().__init__()
        dims = config.space_dims
        self.proj = nn.Sequential(
            PatchesIn(config.channels, config.patch_width, config.patch, dims),
            nn.GELU(),
            PointwiseRows(config.patch_width, config.width, dims),
        )

    def forward(self, frames_BTCs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, P, T R), and the matrix (R, E) and bias (E) to apply to each R."""
        convolution, activation, rows = self.proj
        features_BPTR = activation(convolution(frames_BTCs))
        return features_BPTR.flatten(2), *rows()


class TimeAggregation(nn.Module):
    """z = sum_t W_t^T (cos(gamma t) z_t), t from 0 to 1; `mlp` drops the cosine."""

    def __init__(self, config: DPOTConfig) -> None:
        super().__init__()
        frames, width = config.history, config.width
        self.w = nn.Parameter(torch.randn(frames, width, width) / (frames * width**0.5))
        self.gamma: nn.Parameter | None = None
        if config.time_aggregation == "exp_mlp":
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
    """x + MLP(norm2(mixer(norm1(x)))): the mixer holds the only other residual.

    Args:
        config: The config of the model.
        spectral_dtype: The precision of the Fourier part, unless that of the parameters is higher.
        mix_again: Whether the backward runs all but the MLP a second time.
    """

    def __init__(
        self, config: DPOTConfig, spectral_dtype: torch.dtype, mix_again: bool = False
    ) -> None:
        super().__init__()
        width, hidden, dims = config.width, config.mlp_ratio * config.width, config.space_dims
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.filter = SpectralMixer(width, config.heads, config.mode_cut, spectral_dtype)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)
        self.mlp = nn.Sequential(
            Pointwise(width, hidden, dims), nn.GELU(), Pointwise(hidden, width, dims)
        )
        self.mix_again = mix_again

    def forward(self, x_BhE: Tensor) -> Tensor:
        """Return the next latent state (B, *latent, E)."""
        mixed_BhE = repeated(self.mix, x_BhE) if self.mix_again else self.mix(x_BhE)
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


def _dataset_head(config: DPOTConfig) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(config.width, config.width),
        nn.GELU(),
        nn.Linear(config.width, config.width),
        nn.GELU(),
        nn.Linear(config.width, config.num_datasets),
    )


def _output_layers(config: DPOTConfig) -> nn.Sequential:
    """Return the layers from (B, *latent, E) to (B, *latent, points of a patch, C horizon)."""
    hidden, dims = config.out_layer_dim, config.space_dims
    return nn.Sequential(
        PatchesOut(config.width, hidden, config.patch, dims),
        nn.GELU(),
        Pointwise(hidden, hidden, dims),
        nn.GELU(),
        Pointwise(hidden, config.channels * config.horizon, dims),
    )
