"""Write what the code that made these files reads in them: `python expected.py > expected.json`."""

import hashlib
import json
from pathlib import Path

import torch

from dpot_scale.data.batches import training_windows
from dpot_scale.data.store import open_store
from dpot_scale.models.export import load_model

stores = {name: open_store(Path("store"), name) for name in ("dr_pdb_generated", "swe_coarse")}
windows = training_windows(stores, 5, (1,))
values = {}
for name, store in stores.items():
    for split in ("train", "test"):
        digest = hashlib.sha256()
        for trajectory in range(store.num_trajectories(split)):
            digest.update(store.read(split, trajectory, 0, store.num_frames(split)).tobytes())
        values[f"{name} {split}"] = digest.hexdigest()
history_BTCxy = torch.from_numpy(stores["dr_pdb_generated"].read("test", 0, 0, 4))[None]
with torch.no_grad():
    forecast = load_model(Path("runs/finished/model.safetensors")).eval()(history_BTCxy).frames
print(
    json.dumps(
        {
            "windows": {name: len(some) for name, some in windows.items()},
            "values": values,
            "forecast": forecast.flatten()[::32].tolist(),
        },
        indent=2,
    )
)
