"""What ends a run before its last step, and what it does not put up with."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from dpot_scale.config.base import NO_BOOL, Fraction, NonNegativeInt, PositiveFloat, Section


class LimitsConfig(Section):
    """When a run stops early, and when it goes back to its last checkpoint."""

    wall_clock: PositiveFloat | None = None
    """Minutes from the start of an attempt after which it saves and ends, to be started again; less
    than a scheduler allows, so that there is time to save. null: no limit."""
    spike: Annotated[float, Field(gt=1, allow_inf_nan=False), NO_BOOL] | None = 30.0
    """A step whose loss or gradient norm is more than so many times the largest of the 200 steps
    before it is a spike. The run goes back to its last checkpoint and skips the windows from that
    step on. null: no step is one."""
    unreadable: Fraction = 0.01
    """The share of the windows of a run that may be unreadable. Another window takes the place of
    each; with more of them the run saves and ends."""
    rollbacks: NonNegativeInt = 2
    """How often a run goes back, after a spike or 20 skipped steps in a row; the next time it
    fails."""
    hang: PositiveFloat | None = 5.0
    """Minutes after which an attempt fails in which a rank gives no sign of life, or no rank goes
    on to anything else; the stacks of all ranks are then in RUN/stacks_TIME.txt. What is slow goes
    on: only one call that takes longer needs a larger limit. null: none, as under a debugger."""
    collective: PositiveFloat = 30.0
    """Minutes that a rank waits for the others, when they begin and in each collective call, before
    it gives them up. Where the network drops what they send each other, gloo tries to connect for
    five times as long."""

    @property
    def patience(self) -> timedelta:
        """How long a rank waits for the others."""
        return timedelta(minutes=self.collective)
