"""Tensors that follow from weights alone: merged products, weights in another layout."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

T = TypeVar("T")

MOST_KEPT = 16  # in one module: a server may be asked for any number of grids


class Derived:
    """What a module computes from its weights: in every forward, or once when they are final."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] | None = None

    @property
    def is_kept(self) -> bool:
        """Return whether the weights are final."""
        return self._kept is not None

    def keep(self) -> None:
        """Compute everything once from now on. The weights must stay as they are."""
        self._kept = {}

    def __call__(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what `compute` returns.

        Args:
            key: What it depends on beside the weights.
            compute: Computes it.
        """
        if self._kept is None:
            return compute()
        found: T | None = self._kept.get(key)
        if found is None:
            # What is made in inference mode could be used only there.
            with torch.inference_mode(False), torch.no_grad():
                found = compute()
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept[key] = found
        return found
