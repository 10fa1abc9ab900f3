"""A stored dataset: its index, shards and statistics; writing and verifying it."""
