"""Models: families, and what their networks share."""
