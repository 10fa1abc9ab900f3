"""Readers of the published download formats, one module per source."""
