"""Laws of error against size and data, with intervals: arrays in, values out; NumPy and SciPy."""
