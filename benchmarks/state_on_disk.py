"""Does DeepSpeed train the same with its optimizer's state on a disk as in memory? Without us.

Matrices of 1 MiB in fp32, which DeepSpeed then keeps in files, follow a parameter of an odd size;
one of them is not used. One process trains under stage 3, with the state on the host and on a disk,
from the same weights on the same inputs. Printed is by how much parameters differ.

    apt-get install libaio-dev
    python benchmarks/state_on_disk.py [--odd 7] [--steps 3] [--folder .]  # compiles once
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from dpot_scale.engine.runtime import start_world

WIDTH, RATE = 512, 1e-3


class Net(nn.Module):
    """Layers of several sizes."""

    def __init__(self, odd: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, WIDTH, bias=False)
        self.odd = nn.Parameter(torch.ones(odd))
        self.large = nn.Linear(WIDTH, WIDTH, bias=False)
        self.unused = nn.Linear(WIDTH, WIDTH, bias=False)
        self.larger = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, WIDTH) for (B, 3)."""
        output: Tensor = self.larger(self.large(self.first(x)).tanh()) * self.odd.mean()
        return output


def main() -> None:
    """Print a row per step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--odd", type=int, default=7, help="size of the parameter before matrices")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk for the state")
    options = parser.parse_args()
    start_world()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        on_host = trained({"device": "cpu"}, options)
        on_disk = trained({"device": "nvme", "nvme_path": folder}, options)
    print(f"| step | {' | '.join(on_host[0])} |")
    print("|--:|" + "--:|" * len(on_host[0]))
    for step, (one, other) in enumerate(zip(on_host, on_disk, strict=True), start=1):
        far = [float((one[name] - other[name]).abs().max()) for name in one]
        print(f"| {step} | {' | '.join(f'{value:.1e}' for value in far)} |")


def trained(offload: dict[str, object], options: argparse.Namespace) -> list[dict[str, Tensor]]:
    """Return the fp32 masters of all parameters after each step."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    torch.manual_seed(0)
    zero = {"stage": 3, "offload_optimizer": offload, "stage3_param_persistence_threshold": 0}
    engine, *_ = deepspeed.initialize(
        model=(net := Net(options.odd)),
        model_parameters=list(net.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 4,
            "optimizer": {"type": "Adam", "params": {"lr": RATE, "torch_adam": True}},
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
            "bf16": {"enabled": True},
        },
    )
    found = []
    for _ in range(options.steps):
        x = torch.randn(4, 3, dtype=torch.bfloat16, device=engine.device)
        engine.backward(engine(x).float().square().mean())
        engine.step()
        masters = engine.module.named_parameters()
        found.append({name: safe_get_full_fp32_param(one).clone() for name, one in masters})
    return found


if __name__ == "__main__":
    main()
