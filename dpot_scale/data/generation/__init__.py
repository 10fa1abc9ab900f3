"""Datasets that are solved here: suites, their parts, and the solvers."""
