"""Train one DPOT: `deepspeed dpot_scale/train.py`, `python -m dpot_scale.train`.

Bare, it trains the quickstart preset. Ray and an MLflow server are not needed.
"""

import argparse
import sys
import time
from pathlib import Path

import torch.distributed as dist

from dpot_scale.config.load import add_config_arguments, dump, load_run, load_suite
from dpot_scale.config.schema import RunConfig, config_hash
from dpot_scale.data.batches import BatchStream, training_windows
from dpot_scale.data.generate import generate_suite
from dpot_scale.data.mixture import Mixture
from dpot_scale.data.store import DatasetStore, open_store
from dpot_scale.engine.memory import describe_memory
from dpot_scale.engine.runtime import World, start_world
from dpot_scale.engine.zero import ZeroEngine
from dpot_scale.errors import UserError, exits_cleanly
from dpot_scale.evaluation.figures import save_figures
from dpot_scale.evaluation.metrics import DatasetEvaluation, eval_metrics, evaluate
from dpot_scale.model.cost import count_parameters, train_flops_per_window
from dpot_scale.model.export import save_model
from dpot_scale.model.sizes import architecture
from dpot_scale.training.checkpoint import CheckpointStore, TrainState
from dpot_scale.training.console import Console, header
from dpot_scale.training.health import StopReason
from dpot_scale.training.loop import Trainer
from dpot_scale.training.metrics import peak_memory_gib
from dpot_scale.training.result import TrainingResult
from dpot_scale.training.tracking import Tracker
