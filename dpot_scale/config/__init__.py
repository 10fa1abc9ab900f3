"""Frozen configs: their vocabulary, their presets and how they are loaded."""
