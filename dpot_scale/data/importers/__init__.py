"""Importers: from published files to the store, one module per family of formats."""
