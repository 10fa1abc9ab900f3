"""Scaling sweeps: plan, controller, laws and report."""
