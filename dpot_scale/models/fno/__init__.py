"""A Fourier neural operator: its network and its cost."""
