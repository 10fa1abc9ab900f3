"""Held-out rollouts, their scores and their figures."""
