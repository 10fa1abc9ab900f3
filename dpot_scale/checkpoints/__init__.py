"""Checkpoints of a run: as a value for one process, and as a transaction of all ranks."""
