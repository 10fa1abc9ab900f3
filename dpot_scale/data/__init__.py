"""Datasets: catalogue, solvers, importers, store, mixture and batches."""
