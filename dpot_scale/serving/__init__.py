"""Forecasts for others: arrays in, arrays out, in Python and through MLflow."""
