"""Checks of a machine or a cluster before hours are spent on it, for the entry `doctor`."""
