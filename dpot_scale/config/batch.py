"""The arithmetic of the batch: what each worker takes of the windows of a step."""

from typing import Literal

from dpot_scale.config.base import PositiveInt, Section
from dpot_scale.errors import ConfigError


class BatchConfig(Section):
    """The batch arithmetic: global_batch = micro_batch x world_size x accumulation_steps."""

    global_batch: PositiveInt
    """Windows per optimizer step, over all ranks."""
    micro_batch: PositiveInt | Literal["auto"]
    """Windows per rank and forward. auto: as many as fit, found when the run starts."""

    @property
    def settled_micro_batch(self) -> int:
        """Windows per rank per forward, once they are known."""
        assert self.micro_batch != "auto"
        return self.micro_batch

    def accumulation_steps(self, world_size: int) -> int:
        """Return the micro steps per step.

        Raises:
            ConfigError: the global batch is no multiple of micro_batch x world_size.
        """
        self.require_share(world_size)
        per_micro_step = self.settled_micro_batch * world_size
        steps, rest = divmod(self.global_batch, per_micro_step)
        if rest:
            share = self.global_batch // world_size
            raise ConfigError(
                f"batch.global_batch={self.global_batch} is not a multiple of batch.micro_batch x "
                f"workers = {self.micro_batch} x {world_size} = {per_micro_step}; set "
                f"batch.micro_batch={_largest_divisor(share, self.settled_micro_batch)}, which "
                f"divides the {share} windows of each worker"
            )
        return steps

    def is_shared_by(self, world_size: int) -> bool:
        """Return whether so many workers can take as many windows of a step each."""
        each = 1 if self.micro_batch == "auto" else self.micro_batch
        return self.global_batch % (each * world_size) == 0

    def require_share(self, world_size: int) -> None:
        """Make sure that all workers can take as many windows of a step.

        A run keeps its global batch, so the sentence says which number of workers would do.

        Raises:
            ConfigError: they cannot.
        """
        if self.global_batch % world_size == 0:
            return
        fewer = _largest_divisor(self.global_batch, world_size)
        larger = self.global_batch + -self.global_batch % world_size
        raise ConfigError(
            f"batch.global_batch={self.global_batch} is not a multiple of the {world_size} "
            f"workers: take {fewer}, or, for a new run, batch.global_batch={larger}"
        )


def _largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is at most `most`."""
    return next(n for n in range(min(number, most), 0, -1) if number % n == 0)
