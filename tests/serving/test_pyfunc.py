"""Requests to `mlflow models serve`: good ones, bad ones, many at once; and the model in Python."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

import dpot_scale as ds
from dpot_scale.checkpoints.weights import read
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.serving.pyfunc import MOST_VALUES
from dpot_scale.serving.registry import register

HISTORY = np.random.default_rng(0).normal(size=(2, 3, 2, 16, 16)).astype(np.float32)
FLOW = {"steps": 4, "dataset": "flow"}
SECONDS_TO_START = 120


@pytest.fixture(scope="module")
def uri(of_two: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with the weights as version 1 of the model `flow`."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    assert register(of_two, "flow", uri) == "1"
    return uri


@pytest.fixture(scope="module")
def expected(of_two: Path) -> np.ndarray:
    frames = ds.load(of_two, dataset="flow").rollout(HISTORY, FLOW["steps"])
    assert isinstance(frames, np.ndarray)
    return frames


@dataclass(frozen=True)
class Server:
    address: str

    def is_up(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.address}/ping", timeout=5).status == 200)
        except OSError:
            return False

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.address}/invocations", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def ask(self, history: object, params: object = None) -> tuple[int, dict[str, Any]]:
        return self.answer(json.dumps({"inputs": history, "params": params or FLOW}).encode())


@pytest.fixture(scope="module")
def server(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "models", "serve", "--model-uri", "models:/flow/1"]
    log = tmp_path_factory.mktemp("server") / "log"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of uvicorn
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command, "--env-manager", "local", "--port", str(port)],
            env=os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": path},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    found = Server(f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + SECONDS_TO_START
    while not found.is_up():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    yield found
    is_up = found.is_up()
    os.killpg(process.pid, 15)
    process.wait(30)
    assert is_up, "it outlives every request"


def test_a_good_request_has_the_rollout(server: Server, expected: np.ndarray) -> None:
    status, answer = server.ask(HISTORY.tolist())
    assert status == 200
    found = np.asarray(answer["predictions"], np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_another_dataset_and_another_grid(server: Server, of_two: Path) -> None:
    heat = np.zeros((1, 3, 1, 12, 20), np.float32)
    status, answer = server.ask(heat.tolist(), {"steps": 2, "dataset": "heat"})
    assert status == 200
    frames = ds.load(of_two, dataset="heat").rollout(heat, 2)
    found = np.asarray(answer["predictions"], np.float32)
    np.testing.assert_allclose(found, frames, rtol=1e-5, atol=1e-5)


def bad(value: object) -> list[Any]:
    history: list[Any] = HISTORY.tolist()
    history[1][2][0][5][7] = value
    return history


@pytest.mark.parametrize(
    ("history", "params", "said"),
    [
        (HISTORY[:, :2].tolist(), FLOW, "with T = 3 and C = 2 (u, v), got (2, 2, 2, 16, 16)"),
        (HISTORY[:, :, :1].tolist(), FLOW, "got (2, 3, 1, 16, 16)"),
        (bad(float("nan")), FLOW, "first in frame 2 of window 1, channel u, at the point (5, 7)"),
        (bad(None), FLOW, "first in frame 2 of window 1, channel u, at the point (5, 7)"),
        (bad(1e39), FLOW, "not finite in single precision"),
        (HISTORY.tolist(), FLOW | {"steps": 10**6}, f"one request may have {MOST_VALUES:,}: ask"),
        (HISTORY.tolist(), FLOW | {"steps": 0}, 'how many frames to forecast, as {"steps": 50}'),
        (HISTORY.tolist(), {"step": 3, "dataset": "flow"}, "how many frames to forecast"),
        (HISTORY.tolist(), FLOW | {"steps": -1}, "steps=-1 must be a whole number of frames"),
        (HISTORY.tolist(), {"steps": 3}, "was trained on flow, heat, which it sees in different"),
        (HISTORY.tolist(), FLOW | {"dataset": "flwo"}, "did you mean 'flow'"),
    ],
)
def test_a_bad_request_is_answered_by_one_sentence(
    history: object, params: object, said: str, server: Server
) -> None:
    status, answer = server.ask(history, params)
    assert status == 400
    assert said in answer["message"]
    assert "\n" not in answer["message"]
    assert "Traceback" not in json.dumps(answer)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "valid JSON"),
        (b"[]", "Received a list"),
        (b'{"frames": []}', "must be a JSON dictionary with exactly one of the input fields"),
        (b'{"inputs": [[1, 2], [3]]}', "inhomogeneous shape"),
        (b'{"inputs": "all"}', ""),
        (json.dumps({"inputs": bad("x")}).encode(), "could not convert string to float"),
        # MLflow compares the number of axes.
        (json.dumps({"inputs": HISTORY[0].tolist(), "params": FLOW}).encode(), "Shape of input"),
        (
            json.dumps({"inputs": HISTORY.tolist(), "params": {"steps": "many"}}).encode(),
            "Can not safely convert",
        ),
    ],
)
def test_what_is_no_request_is_answered_by_mlflow(body: bytes, said: str, server: Server) -> None:
    status, answer = server.answer(body)
    assert 400 <= status < 500
    assert said in answer["message"]


def test_many_at_once_are_all_answered(server: Server, expected: np.ndarray) -> None:
    requests = [(HISTORY.tolist(), 200), (bad(float("nan")), 400)] * 6
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda request: server.ask(request[0]), requests))
    assert [status for status, _ in answers] == [status for _, status in requests]
    for _, answer in answers[::2]:
        found = np.asarray(answer["predictions"], np.float32)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_it_is_loaded_in_python(uri: str, expected: np.ndarray) -> None:
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/flow/1")
    np.testing.assert_array_equal(model.predict(HISTORY, params=FLOW), expected)
    config = {"dtype": "bfloat16", "most_values": 10_000}
    rough = mlflow.pyfunc.load_model("models:/flow/1", model_config=config)
    found = rough.predict(HISTORY, params=FLOW)
    np.testing.assert_allclose(found, expected, atol=0.2)
    assert not np.array_equal(found, expected)
    with pytest.raises(MlflowException, match="one request may have 10,000"):
        rough.predict(HISTORY, params=FLOW | {"steps": 10})
    with pytest.raises(ConfigError, match="dtype='bfloat17' is none of the precisions"):
        mlflow.pyfunc.load_model("models:/flow/1", model_config={"dtype": "bfloat17"})


def test_a_forecast_that_is_not_finite_is_refused(uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/flow/1")
    with pytest.raises(MlflowException, match="from step 1 on: the model cannot use this history"):
        model.predict(np.full_like(HISTORY, 3e38), params=FLOW)


def test_a_model_is_told_its_conditions(of_two: Path, tmp_path: Path) -> None:
    weights = read(of_two)
    said = {"conditioning": ["dt", "parameters"], "parameters": ["viscosity"]}
    config = DPOTConfig.model_validate(weights.model.model_dump() | said)
    network = DPOT(config)
    assert network.conditioning is not None
    torch.nn.init.normal_(network.conditioning.modulation.weight)
    path, uri = tmp_path / "told.safetensors", f"sqlite:///{tmp_path / 'mlflow.db'}"
    save_model(path, config, network.state_dict(), weights.data)
    register(path, "told", uri)
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/told/1")
    model = ds.load(path, dataset="flow")
    assert [one.name for one in served.metadata.signature.params.params] == [
        "steps", "dataset", "dt", "viscosity"
    ]  # fmt: skip
    with over_http(served) as server:
        for conditions in ({}, {"viscosity": 0.1}, {"dt": 0.5, "viscosity": 0.0}):
            expected = model.told(**conditions).rollout(HISTORY, 4)
            found = served.predict(HISTORY, params=FLOW | conditions)
            np.testing.assert_array_equal(found, expected)
            status, answer = server.ask(HISTORY.tolist(), FLOW | conditions)
            assert status == 200
            np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-5, atol=1e-5)
        status, answer = server.ask(HISTORY.tolist(), FLOW | {"viscosity": "thick"})
        assert (status, "viscosity" in answer["message"]) == (400, True)


@contextmanager
def over_http(model: mlflow.pyfunc.PyFuncModel) -> Iterator[Server]:
    """The application that `mlflow models serve` runs, in a thread, at a free port of loopback."""
    uvicorn = pytest.importorskip("uvicorn")
    from mlflow.pyfunc.scoring_server import init

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # requests wait until the server takes them
        server = uvicorn.Server(uvicorn.Config(init(model), log_level="error"))
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}")
        finally:
            server.should_exit = True
            thread.join(30)
