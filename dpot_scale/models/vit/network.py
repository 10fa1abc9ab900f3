"""A transformer over patches in space and time.

A vision transformer (Dosovitskiy et al. 2021) whose blocks have their norms first. In time it is
the factorised self-attention of Arnab et al. (2021, model 3): each block attends over the tokens of
a patch in time, then over the patches of a time. With one token in time, which holds the whole
history of a patch, only the second attention is left.

Legend: B windows, T history frames, C fields, s the space axes of the grid, h those of the patches,
c points of a patch, V the values of a token, S tokens in time, P patches, E width, N sequences of
L tokens.
"""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from dpot_scale.models.adapter import AdaptableLinear
from dpot_scale.models.family import KEEP_ALL, Recompute
from dpot_scale.models.forecaster import Forecast, Forecaster, Moments
from dpot_scale.models.patches import cropped, edge_padded, grid_from_patches, patches
from dpot_scale.models.positions import resized_positions
from dpot_scale.models.recompute import repeated, runners
from dpot_scale.models.vit.config import ViTConfig

EMBEDDING_STD = 0.02


class ViT(Forecaster):
    """Maps `history` frames of a field, standardised, to the next `horizon` frames.

    A field may have any grid. One that is no multiple of the patch is continued by its edge, at the
    end of each axis, and the forecast cut back; for other numbers of patches than those of the
    config the position embedding is interpolated.
    """

    def __init__(self, config: ViTConfig, *, recompute: Recompute = KEEP_ALL) -> None:
        super().__init__(config, normalize=True)
        self.config: ViTConfig = config
        width = config.width
        self.patch_embed = nn.Linear(config.token_values, width)
        self.space_embed = nn.Parameter(torch.empty(1, width, *config.latent_grid))
        nn.init.trunc_normal_(self.space_embed, std=EMBEDDING_STD)
        self.time_embed: nn.Parameter | None = None
        if config.time_tokens > 1:
            self.time_embed = nn.Parameter(torch.empty(config.time_tokens, 1, width))
            nn.init.trunc_normal_(self.time_embed, std=EMBEDDING_STD)
        self.statistics = nn.Linear(2 * config.channels, width)
        again = recompute.blocks == "selective"
        self.blocks = nn.ModuleList(Block(config, again) for _ in range(config.depth))
        self._run_blocks = runners(self.blocks, recompute)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, config.forecast_values)
        self.ends_in(self.output)

    def predict(self, frames_BTCs: Tensor, moments: Moments | None) -> Forecast:
        """Predict from standardised frames of shape (B, history, C, *space)."""
        assert moments is not None
        config, space = self.config, tuple(frames_BTCs.shape[3:])
        tokens_BSPE = self._embed(edge_padded(frames_BTCs, config.padded(space)), moments)
        for run_block in self._run_blocks:
            tokens_BSPE = run_block(tokens_BSPE)
        values_BPV = self.output(self.norm(tokens_BSPE[:, -1])).float()
        cell = config.patch**config.space_dims
        patches_BhcF = values_BPV.view(len(values_BPV), *config.latent(space), cell, -1)
        forecast_BFs = grid_from_patches(patches_BhcF, config.patch)
        frames = forecast_BFs.view(-1, config.horizon, config.channels, *forecast_BFs.shape[2:])
        return Forecast(cropped(frames, space))

    def _embed(self, frames_BTCs: Tensor, moments: Moments) -> Tensor:
        """Return a token for each patch and part of the history, (B, S, P, E)."""
        config, dtype = self.config, self.patch_embed.weight.dtype
        latent = config.latent(tuple(frames_BTCs.shape[3:]))
        split_BhTCc = patches(frames_BTCs, config.patch).to(dtype)
        values_BPSV = split_BhTCc.reshape(
            len(frames_BTCs), prod(latent), config.time_tokens, config.token_values
        )
        place_PE = resized_positions(self.space_embed, latent)[0].flatten(1).t()
        statistics_B2C = torch.cat([moment.flatten(1) for moment in moments], dim=1).to(dtype)
        of_window_B11E = self.statistics(statistics_B2C)[:, None, None]
        tokens_BSPE: Tensor = (
            self.patch_embed(values_BPSV.transpose(1, 2)) + place_PE + of_window_B11E
        )
        return tokens_BSPE if self.time_embed is None else tokens_BSPE + self.time_embed


class Block(nn.Module):
    """x + attention over time, x + attention over space, x + MLP, each of what it normalises.

    Args:
        config: The config of the model.
        attend_again: Whether the backward runs the attentions a second time.
    """

    def __init__(self, config: ViTConfig, attend_again: bool = False) -> None:
        super().__init__()
        width, hidden = config.width, config.mlp_ratio * config.width
        self.attention = nn.ModuleDict({"space": Attention(width, config.heads)})
        if config.time_tokens > 1:
            self.attention["time"] = Attention(width, config.heads)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            AdaptableLinear(width, hidden), nn.GELU(), AdaptableLinear(hidden, width)
        )
        self.attend_again = attend_again

    def forward(self, x_BSPE: Tensor) -> Tensor:
        """Return the next tokens (B, S, P, E)."""
        x_BSPE = repeated(self.attend, x_BSPE) if self.attend_again else self.attend(x_BSPE)
        update_BSPE: Tensor = self.mlp(self.norm(x_BSPE))
        return x_BSPE + update_BSPE

    def attend(self, x_BSPE: Tensor) -> Tensor:
        """Return the tokens to which the attentions are added."""
        if "time" in self.attention:
            x_BPSE = x_BSPE.transpose(1, 2)
            x_BSPE = (x_BPSE + self.attention["time"](x_BPSE)).transpose(1, 2)
        attended_BSPE: Tensor = self.attention["space"](x_BSPE)
        return x_BSPE + attended_BSPE


class Attention(nn.Module):
    """Each token looks at all tokens of its sequence (Vaswani et al. 2017), after a norm.

    Queries, keys and values have matrices of their own, each of which Muon makes orthogonal.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = AdaptableLinear(width, width)
        self.key = AdaptableLinear(width, width)
        self.value = AdaptableLinear(width, width)
        self.output = AdaptableLinear(width, width)

    def forward(self, x_BNLE: Tensor) -> Tensor:
        """Return (B, N, L, E)."""
        x = self.norm(x_BNLE)
        layers = (self.query, self.key, self.value)
        query, key, value = (self._by_head(layer(x)) for layer in layers)
        seen = scaled_dot_product_attention(query, key, value)
        output: Tensor = self.output(seen.transpose(1, 2).reshape(x_BNLE.shape))
        return output

    def _by_head(self, x_BNLE: Tensor) -> Tensor:
        """Return (B N, heads, L, channels of a head)."""
        _, _, tokens, width = x_BNLE.shape
        return x_BNLE.view(-1, tokens, self.heads, width // self.heads).transpose(1, 2)
