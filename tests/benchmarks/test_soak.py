"""The pure parts of benchmarks/soak.py: what it draws, compares and finds left over."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

STEPS = range(23, 130)


def test_the_seed_decides_the_faults(soak: Any) -> None:
    def drawn(seed: int) -> list[Any]:
        plan = soak.Plan(seed, STEPS)
        return [plan.next_round() for _ in range(12)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    for planned in drawn(1):
        steps = [fault.step for fault in planned.faults]
        assert steps == sorted(set(steps))
        assert set(steps) <= set(STEPS)
        kinds = soak.OF_RAY if planned.launcher == "ray" else soak.OF_A_LAUNCHER
        assert {fault.fault for fault in planned.faults} <= kinds.keys()
    assert {planned.launcher for planned in drawn(1)} == {"deepspeed", "torchrun", "ray"}


@pytest.mark.parametrize("seed", range(5))
def test_ten_rounds_hold_every_fault(seed: int, soak: Any) -> None:
    plan = soak.Plan(seed, STEPS)
    assert {one.fault for _ in range(10) for one in plan.next_round().faults} == soak.FAULTS.keys()


def test_each_fault_comes_before_one_comes_again(soak: Any) -> None:
    names = "abcde"
    deck, other = soak.Deck(3, names), soak.Deck(3, names)
    drawn = [name for _ in range(5) for name in deck.draw(1)]
    assert sorted(drawn) == list(names)
    assert other.draw(5) == drawn
    for _ in range(20):
        assert len(set(deck.draw(3))) == 3


def test_a_fault_that_was_not_caused_comes_first_in_the_next_round_that_can(soak: Any) -> None:
    plan = soak.Plan(0, STEPS)
    on_ray, first = plan.next_round(), plan.next_round()
    plan.put_back([on_ray.faults[2], *first.faults[1:]])
    names = [one.fault for one in plan.next_round().faults]
    assert names[:2] == [one.fault for one in first.faults[1:]]
    plan.next_round()
    assert plan.next_round().faults[0].fault == on_ray.faults[2].fault


def test_a_fault_comes_when_its_attempt_has_made_the_step(soak: Any) -> None:
    at_a_step = soak.Planned("kill all", 30, 0, 2.0)
    assert [soak.is_due(at_a_step, step, 60.0) for step in (-1, 29, 30, 31)] == [0, 0, 1, 1]
    early = soak.Planned("kill all while they start", 30, 0, 2.0)
    assert [soak.is_due(early, -1, seconds) for seconds in (1.9, 2.0)] == [0, 1]
    assert not soak.is_due(early, 30, 2.0)  # it trains already


def test_every_digit_and_every_step_counts(soak: Any) -> None:
    curves = {"train/loss": {1: 0.1, 2: 0.2}}
    assert soak.of_curves(curves, {"train/loss": {1: 0.1, 2: 0.2}}) == []
    (other,) = soak.of_curves({"train/loss": {1: 0.1, 2: 0.2 + 1e-16}}, curves)
    assert other.startswith("train/loss differs at 1 steps, first at 2: 0.2000")
    (less,) = soak.of_curves({"train/loss": {1: 0.1}}, curves)
    assert "first at 2: None in place of 0.2" in less
    assert len(soak.of_curves({**curves, "eval/a": {1: 1.0}}, curves)) == 1


def test_points_that_mlflow_lacks_or_has_twice_are_found(soak: Any) -> None:
    def client(*steps: int) -> Any:
        points = [SimpleNamespace(step=step, value=1 / step) for step in steps]
        return SimpleNamespace(get_metric_history=lambda *_: points)

    curves = {"train/loss": {1: 1.0, 2: 0.5}}
    assert soak.of_points(client(1, 2), "run", curves) == []
    for steps in ((1,), (1, 2, 2), (1, 3)):
        assert len(soak.of_points(client(*steps), "run", curves)) == 1
    # What was recorded on a disk that was lost may be in MLflow, once.
    speed = {"perf/windows_per_second": {1: 1.0}}
    for steps, found in (((1, 2), 0), ((2,), 1), ((1, 2, 2), 1)):
        assert len(soak.of_points(client(*steps), "run", speed, has_lost_some=True)) == found
        assert len(soak.of_points(client(*steps), "run", speed)) == 1
    assert len(soak.of_points(client(1, 2, 3), "run", curves, has_lost_some=True)) == 1
    other = {"train/loss": {1: 1.0, 2: 0.75}}
    assert soak.of_points(client(1, 2), "run", other)[0].startswith("in MLflow train/loss differs")


def test_what_is_left_is_named_unless_it_may_live(soak: Any) -> None:
    before = soak.Left({1: "server"}, frozenset({"old"}), frozenset())
    now = soak.Left({2: "server", 3: "rank"}, frozenset({"old", "new"}), frozenset({"buffer"}))
    assert soak.leaks(before, before, expected=()) == []
    assert soak.leaks(before, now, expected={2}) == [
        "process 3 is left: rank",
        "new is left in /tmp",
        "buffer is left in /dev/shm",
    ]
    idle, at_work = ({4: f"ray::{name}"} for name in ("IDLE", "RayTrainWorker.execute"))
    before, now = (soak.Left(one, frozenset(), frozenset()) for one in (idle, at_work))
    assert soak.leaks(before, before, expected={4}) == []
    assert soak.leaks(before, now, expected={4}) == ["process 4 is left: " + at_work[4]]


@pytest.mark.parametrize(
    ("mib", "files", "is_leak"),
    [(0.0, 0.0, False), (0.1, 0.0, False), (2.0, 0.0, True), (0.0, 1.0, True)],
)
def test_a_process_that_grows_all_its_life_is_a_leak(
    mib: float, files: float, is_leak: bool, soak: Any
) -> None:
    looks = [soak.Look(2.0 * i, 100 + mib * i, int(10 + files * i)) for i in range(100)]
    (growth,) = soak.grown({"server": looks, "short": looks[:20]})
    assert (growth.name, growth.is_leak) == ("server", is_leak)
    assert (growth.mib[1], growth.files[-1]) == (100 + mib * 14.5, 10 + files * 94.5)


def test_processes_are_watched_from_when_they_stand(soak: Any) -> None:
    watcher = soak.Watcher()
    watcher.add_all()
    watched = {process.pid for process in watcher._watched}
    watcher.close()
    assert os.getpid() in watched
    names = ("ray::IDLE", "python -u /x/ray/_private/log_monitor.py --session-dir=/x")
    assert all(any(part in name for part in soak.NOT_WATCHED) for name in names)
    assert not any(part in "ray::RayTrainWorker.execute" for part in soak.NOT_WATCHED)


def test_a_fault_is_over_when_the_run_is_further_than_before(soak: Any) -> None:
    caused = soak.Caused("kill all", step=31, time=100.0)
    records = [(30, 98.0), (31, 99.0), (20, 110.0), (31, 111.0), (32, 112.0), (33, 113.0)]
    assert soak.further_after(records, caused) == 12.0
    assert soak.further_after(records[:-2], caused) is None


def test_steps_that_are_made_again_belong_to_the_fault_before(soak: Any) -> None:
    caused = [soak.Caused("kill all", 3, 10.0), soak.Caused("SIGTERM to a rank", 4, 20.0)]
    records = [(1, 1.0), (2, 2.0), (3, 3.0), (3, 15.0), (4, 16.0), (5, 25.0)]
    assert soak.note_made_again(records, caused) == []
    assert [one.made_again for one in caused] == [1, 0]


def test_a_fault_that_keeps_every_step_may_cost_none(soak: Any) -> None:
    records = [(1, 1.0), (2, 2.0), (2, 15.0), (3, 16.0)]
    stop = soak.Caused("SIGTERM to a rank", 2, 10.0)
    words = "went back from step 2 to 2 after "
    assert soak.note_made_again(records, [stop]) == [words + "SIGTERM to a rank"]
    assert soak.note_made_again(records, []) == [words + "no fault"]
    assert soak.note_made_again(records, [soak.Caused("full disk", 1, 1.5), stop]) == []


def test_a_record_is_read_out_of_its_pieces(soak: Any) -> None:
    lists = {
        f"records/list_00000{number}_sum": json.dumps({"pieces": {soak.SPOOL: sums}}).encode()
        for number, sums in ((1, ["b"]), (2, ["b", "a"]))
    }
    files = {"records/a": b"2", "records/b": b"1", **lists}
    assert soak.with_records(files)[soak.SPOOL] == b"12"
    assert soak.with_records({}) == {}


def test_the_steps_of_a_lost_disk_count(soak: Any, tmp_path: Path) -> None:
    training = soak.Training(tmp_path, "lost", "torchrun")
    training.directory.mkdir(parents=True)
    spool = training.directory / soak.SPOOL
    records = [json.dumps({"step": step, "time": 9.0 + step, "train/loss": 1}) for step in (1, 2)]
    spool.write_text("\n".join(records))
    training.lose_disk()
    assert not training.directory.exists()
    assert training.recorded() == [(1, 10.0), (2, 11.0)]
    training.directory.mkdir()
    again = json.dumps({"step": 2, "time": 20.0, "train/loss": 1})
    spool.write_text(f"{records[0]}\n{again}")  # the first one came out of the archive
    assert training.recorded() == [(1, 10.0), (2, 11.0), (2, 20.0)]


def test_a_difference_is_told_and_fails_the_soak(soak: Any) -> None:
    planned = soak.Plan(1, STEPS).next_round()
    caused = soak.Caused("kill all", 31, 0.0, 12.0, 7)
    held = soak.Held({"MLflow": 250.0}, 20, 300, 1, 0)
    outcome = soak.Outcome(planned, [caused], [], [-9, 0], minutes=2.0, held=held)
    text, is_sound = soak.summary([outcome], held, [])
    assert is_sound
    assert "| kill all | 1 | 7 | 12.0 | 12.0 |" in text
    assert "never caused: kill a rank, kill a rank while they start, kill the launcher" in text
    assert "| 0 | 2.0 | 250 | 20 | 300 | 1 | 0 |" in text
    assert "1 rounds, 2 attempts, 1 faults, 7 steps made again, 0 differences" in text
    outcome.differences.append("train/loss differs")
    text, is_sound = soak.summary([outcome], held, [])
    assert not is_sound
    assert text.endswith("1 differences\ntrain/loss differs")
    recorded = json.loads(json.dumps(soak.recorded(outcome)))
    assert recorded["round"]["faults"][0]["fault"] == planned.faults[0].fault
    assert recorded["caused"][0]["made_again"] == 7


# A launcher of two ranks, of which the first records a step in each 10 ms and goes on where the
# one before was killed. As a launcher does, it ends them all when one fails.
STUB = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

spool = Path(sys.argv[1])
if "LOCAL_RANK" not in os.environ:
    command = [sys.executable, *sys.argv]
    ranks = [
        subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": str(rank)}) for rank in range(2)
    ]
    while any(rank.poll() is None for rank in ranks):
        time.sleep(0.01)
        if any(rank.poll() for rank in ranks):
            for rank in ranks:
                rank.kill()
            sys.exit(1)
    sys.exit(0)
step = 0
time.sleep(0.3)  # as it takes to start
if spool.exists():
    step = json.loads(spool.read_text().splitlines()[-1])["step"] // 10 * 10
while step < int(sys.argv[3]):
    step += 1
    time.sleep(0.01)
    if os.environ["LOCAL_RANK"] == "0":
        with spool.open("a") as file:
            record = {"step": step, "time": time.time(), "train/loss": 1 / step}
            file.write(json.dumps(record) + chr(10))
"""


def test_a_training_is_disturbed_and_started_again_until_it_ends(
    soak: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)  # DeepSpeed sets it in this process
    name = f"stub_{os.getpid()}"  # no other test has it
    training = soak.Training(tmp_path, name, "torchrun")
    training.directory.mkdir(parents=True)
    spool = training.directory / soak.SPOOL
    (tmp_path / "stub.py").write_text(STUB)
    stub = [sys.executable, str(tmp_path / "stub.py")]
    training._command = [*stub, str(spool), f"name={name}", str(soak.STEPS)]
    names = ["kill all while they start", "kill a rank", "stop a rank for seconds"]
    planned = [
        soak.Planned(name, step, 1, 0.0) for name, step in zip(names, (1, 40, 70), strict=True)
    ]
    begun: list[int] = []
    outcome = soak.disturbed(
        training, soak.Round(0, "torchrun", tuple(planned)), lambda: begun.append(1)
    )
    assert outcome.differences == []
    assert [one.fault for one in outcome.caused] == names
    assert outcome.codes == [-9, 1, 0]
    assert 0 <= outcome.made_again < 30
    assert all(one.seconds is not None for one in outcome.caused)
    assert (outcome.left_out, len(begun)) == ([], 2)
    assert training.ranks() == []


@pytest.mark.parametrize(
    ("ending", "how"),
    [("os.abort()", "crashed: -6"), ("raise SystemExit(2)", "ended without a fault: 2")],
)
def test_an_end_without_a_fault_is_a_difference(
    ending: str, how: str, soak: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["soak_round"], "MOST_ATTEMPTS", 1)
    training = soak.Training(tmp_path, "ends", "torchrun")
    training._command = [
        sys.executable,
        "-c",
        f"import os; print('why'); os.sys.stdout.flush(); {ending}",
    ]
    outcome = soak.disturbed(training, soak.Round(0, "torchrun", ()))
    assert outcome.differences == [f"attempt 1 {how}", "did not finish in 1 attempts"]
    assert outcome.said[0] == "why"
    assert ("Fatal Python error: Aborted" in outcome.said) == ("crashed" in how)
