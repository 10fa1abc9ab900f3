"""A transformer over patches in space and time: its network and its cost."""
