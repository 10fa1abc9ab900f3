"""Objective, loop, checkpoints, metrics and tracking of one run."""
