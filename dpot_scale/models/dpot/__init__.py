"""DPOT in two and three dimensions: its network, its sizes and its cost."""
