"""DPOT in two and three dimensions, its sizes and its cost."""
