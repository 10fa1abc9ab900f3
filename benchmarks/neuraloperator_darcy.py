"""Ours beside the FNO of neuraloperator on steady Darcy flow, 16 x 16, 1000 training samples.

Neuraloperator is no dependency of this project. It gets a virtual environment of its own. Its
version 0.3.0 is the newest on PyPI that ships the data; the code is that of 2.0.0.

    python -m venv darcy && darcy/bin/pip install neuraloperator==2.0.0 torch
    pip download --no-deps neuraloperator==0.3.0
    darcy/bin/python benchmarks/neuraloperator_darcy.py OUT write neuraloperator-0.3.0*.whl
    darcy/bin/python benchmarks/neuraloperator_darcy.py OUT baseline

And in the environment of this project, ours learns from the same data:

    python benchmarks/neuraloperator_darcy.py OUT ours
    python benchmarks/neuraloperator_darcy.py OUT table

The error is the relative L2 error on the 50 test samples: of one field and one lead time,
`yardstick.nrmse` is that.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from yardstick import (
    FILES,
    TRUTH,
    Commands,
    Row,
    cpu_seconds,
    import_files,
    nrmse,
    ours,
)

DATASET = "darcy_16"
TRAIN, TEST = 1000, 50  # samples
BATCH = 8  # of both
# What is laid over the quickstart's recipe. The rest is as in the preset.
OURS: dict[str, Any] = {
    "extends": "quickstart",
    "model": {
        "width": 128,
        "grid": 16,
        "patch": 2,
        "history": 1,
        "channels": 1,
        "target": "frame",
        "skip_frames": 1,
    },
    "data": {"suite": None, "weights": {DATASET: 1}},
    "objective": {"noise": 0.0},  # nothing is fed back
    "evaluation": {"trajectories": 50, "batch": 50},
    "checkpoint": {"every": 0},
    "tracking": {"mlflow_uri": None},
}


def main() -> None:
    """Run one of the commands."""
    commands = Commands("Ours beside the FNO of neuraloperator on Darcy flow.")
    commands.add("write", write, "unpack the data").add_argument("wheel", type=Path)
    command = commands.add("baseline", baseline, "train the FNO of neuraloperator")
    command.add_argument("--epochs", type=int, default=300)
    command = commands.add("ours", train_ours, "train ours")
    command.add_argument("--name", default="DPOT")
    command.add_argument("--epochs", type=int, default=64)
    commands.run()


def write(out: Path, wheel: Path) -> None:
    """Unpack the training and the test file, and keep the test solutions apart."""
    import torch

    (out / FILES).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for split in ("train", "test"):
            content = archive.read(f"neuralop/datasets/data/darcy_{split}_16.pt")
            (out / FILES / f"darcy_{split}_16.pt").write_bytes(content)
    np.save(out / TRUTH, torch.load(out / FILES / "darcy_test_16.pt")["y"].numpy()[:, None, None])


def baseline(out: Path, epochs: int) -> Row:
    """Train the FNO with neuraloperator's own code, and the settings of its own Darcy example.

    Those are in `config/darcy_config.py` and `config/models.py` of its repository, at 2.0.0: 300
    epochs, and the learning rate is halved after every fifth of them. Its loader does not shuffle.
    """
    import torch
    from neuralop import H1Loss, Trainer
    from neuralop.data.datasets.darcy import load_darcy_pt
    from neuralop.models import FNO
    from neuralop.training import AdamW

    torch.manual_seed(0)
    loader, tests, processor = load_darcy_pt(
        TRAIN, [TEST], BATCH, [TEST], out / FILES, 16, [16], encode_input=True, num_workers=0
    )
    fno = FNO((16, 16), 1, 1, 24, projection_channel_ratio=2)
    optimizer = AdamW(fno.parameters(), lr=5e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, max(1, epochs // 5), gamma=0.5)
    trainer = Trainer(model=fno, n_epochs=epochs, data_processor=processor, eval_interval=epochs)
    before = cpu_seconds()
    trainer.train(loader, {}, optimizer, scheduler, training_loss=H1Loss(d=2), eval_losses={})
    spent = cpu_seconds() - before
    fno.eval()
    processor.eval()
    (sample,) = tests[16]
    with torch.no_grad():
        forecast, _ = processor.postprocess(fno(processor.preprocess(sample)["x"]), sample)
    return Row(
        network="FNO of neuraloperator",
        parameters=sum(p.numel() * (1 + p.is_complex()) for p in fno.parameters()),
        steps=epochs * len(loader),
        batch=BATCH,
        history=1,
        cpu_seconds=spent,
        flops=None,  # torch counts no Fourier transform
        errors=nrmse(forecast.numpy()[:, None], np.load(out / TRUTH)).tolist(),
    )


def train_ours(out: Path, name: str, epochs: int) -> Row:
    """Train ours on the same data, and score it."""
    if not (out / "data" / DATASET).exists():
        import_files(out, DATASET)
    return ours(out, name, OURS, epochs * TRAIN // BATCH * BATCH, known=1)


if __name__ == "__main__":
    main()
