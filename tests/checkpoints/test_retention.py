"""Which checkpoints stay, whatever was saved and is asked for."""

from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.checkpoints.retention import removable
from dpot_scale.config.run import CheckpointConfig

STEPS = st.integers(1, 60)
CONFIGS = st.builds(
    CheckpointConfig,
    keep=st.integers(2, 5),
    keep_every=st.integers(0, 20),
)


@given(st.sets(STEPS, min_size=1), st.data(), CONFIGS)
def test_the_newest_and_all_milestones_stay(
    steps: set[int], data: st.DataObject, config: CheckpointConfig
) -> None:
    newest = data.draw(st.sampled_from(sorted(steps)))
    gone = removable(steps, newest, config)
    past = sorted(step for step in steps if step <= newest)
    assert gone < steps, "the newest intact one is never removed"
    assert gone.isdisjoint(past[-config.keep :])
    assert not any(config.is_milestone(step) for step in gone if step <= newest)
    assert {step for step in steps if step > newest} <= gone, "the run went back behind them"
    kept = steps - gone
    assert len([step for step in kept if not config.is_milestone(step)]) <= config.keep
    assert removable(kept, newest, config) == set(), "what stays, stays"


@given(st.integers(1, 200), CONFIGS)
def test_what_a_run_leaves_does_not_grow_but_for_its_milestones(
    steps: int, config: CheckpointConfig
) -> None:
    kept: set[int] = set()
    for step in range(1, steps + 1):
        kept = (kept | {step}) - removable(kept | {step}, step, config)
    newest = set(range(max(1, steps - config.keep + 1), steps + 1))
    assert kept == newest | {step for step in range(1, steps + 1) if config.is_milestone(step)}


def test_one_of_every_few_hours_stays_for_ever() -> None:
    config = CheckpointConfig(keep_hours=2)
    times = {step: 1000.0 + 1800 * step for step in range(1, 20)}  # one every half hour
    kept: set[int] = set()
    for step in times:
        kept = (kept | {step}) - removable(kept | {step}, step, config, times)
    assert kept == {1, 5, 9, 13, 17, 18, 19}
    assert removable({1, 2, 3}, 3, config) == {1}, "of which no time is known"


def test_a_clock_that_was_wrong_for_a_while_ends_no_keeping() -> None:
    config = CheckpointConfig(keep_hours=2)
    times = {step: 1000.0 + 1800 * step for step in range(1, 20)}
    times[6] += 1e9
    kept: set[int] = set()
    for step in times:
        kept = (kept | {step}) - removable(kept | {step}, step, config, times)
    assert kept == {1, 5, 6, 7, 11, 15, 18, 19}
