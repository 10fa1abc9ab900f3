"""Solvers that generate training data, one module per equation."""
