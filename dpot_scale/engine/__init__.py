"""Ranks, sharding, optimizer and memory: how a step is computed."""
