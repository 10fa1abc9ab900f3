"""Mistakes are one sentence and exit code 2; bugs keep their traceback."""

import pickle
import sys

import pytest

from dpot_scale.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    MachineError,
    SharedDataError,
    SharedMachineError,
    ShortMemoryError,
    UserError,
    exits_cleanly,
    short_memory_named,
    shortened,
    this_command,
    without_secrets,
)


def raising(error: BaseException) -> int:
    @exits_cleanly
    def main() -> int:
        raise error

    return main()


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, CheckpointError])
def test_a_mistake(kind: type[UserError], capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(kind("what, where, what to do")) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: what, where, what to do\n")


@pytest.mark.parametrize(
    ("kind", "spoken"),
    [
        (ConfigError, False),
        (DataError, True),
        (SharedDataError, False),
        (MachineError, True),
        (SharedMachineError, False),
        (DeviceError, True),
        (ShortMemoryError, True),
    ],
)
def test_other_ranks_repeat_no_mistake_that_all_make(
    kind: type[UserError],
    spoken: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "3")
    assert raising(kind("sentence")) == 2
    assert capsys.readouterr().err == ("error: sentence\n" if spoken else "")


def test_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert raising(KeyboardInterrupt("interrupted at noon")) == 130
    assert capsys.readouterr().err == "interrupted at noon\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


def test_success_keeps_its_exit_code_and_name() -> None:
    @exits_cleanly
    def main(code: int) -> int:
        return code

    assert main(0) == 0
    assert main(code=7) == 7
    assert main.__name__ == "main"


def test_a_command_with_a_hundred_names_is_said_by_how_it_begins() -> None:
    short = "python -m dpot_scale.sweep run --config ladder.yaml"
    assert shortened(short) == short
    names = [f"E64_w4096_{number:06}" for number in range(100)]
    assert shortened(" ".join([short, *names])) == (
        f"the same command, {short} {' '.join(names[:6])} ... (94 more words)"
    )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("at http://me:pw@host:5000/x.", "at http://...@host:5000/x."),
        ("at https://token@host", "at https://...@host"),
        ("no file https:/me:pw@host/w.pth", "no file https:/...@host/w.pth"),
        ("RAY_ADDRESS=me:pw@10.0.0.1:6379", "RAY_ADDRESS=...@10.0.0.1:6379"),
        ("RAY_ADDRESS=ray://me:pw@[::1]:10001", "RAY_ADDRESS=ray://...@[::1]:10001"),
        (
            "'postgresql://me:p=w@db/x?sslpassword=a&b=c'",
            "'postgresql://...@db/x?sslpassword=...&b=c'",
        ),
        ("https://host?a=1&X-Token=abc", "https://host?a=1&X-Token=..."),
    ],
)
def test_a_sentence_repeats_no_secret_of_an_address(said: str, shown: str) -> None:
    assert without_secrets(said) == str(ConfigError(said)) == shown
    assert str(pickle.loads(pickle.dumps(DataError(said)))) == shown


@pytest.mark.parametrize(
    "said",
    [
        "models:/name@champion cannot be read from sqlite:////a/mlflow.db",
        "give key=value; --token is no option, and token=x was said",
        "http://host:5000/#/experiments/1?workflowType=machine_learning",
        "a mail to me@host.org, at 12:30 @home",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert without_secrets(said) == said


def test_a_command_is_repeated_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "a=http://me:pw@host", "b c"])
    assert this_command() == "python a=http://...@host 'b c'"


CUDA_REFUSAL = (
    "CUDA out of memory. Tried to allocate 1.69 GiB. GPU 0 has a total capacity of 139.80 GiB of "
    "which 535.50 MiB is free. Including non-PyTorch memory, this process has 137.89 GiB in use."
)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (RuntimeError(CUDA_REFUSAL), CUDA_REFUSAL.split(". Including", maxsplit=1)[0]),
        (
            RuntimeError("DefaultCPUAllocator:\ncan't allocate"),
            "DefaultCPUAllocator: can't allocate",
        ),
        (MemoryError(), "MemoryError"),
    ],
)
def test_memory_that_is_refused_is_one_sentence(refusal: Exception, reason: str) -> None:
    with (
        pytest.raises(ShortMemoryError) as raised,
        short_memory_named("run x", "take a smaller batch"),
    ):
        raise refusal
    assert str(raised.value) == f"run x ran out of memory ({reason}): take a smaller batch"
    assert raised.value.stop == "out_of_memory"


@pytest.mark.parametrize("error", [ValueError("a bug"), DataError("out of memory, it says")])
def test_what_is_not_about_memory_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, short_memory_named("run x", "nothing"):
        raise error
    assert raised.value is error
