"""What a sweep has shown, from its results: a table, a law, a figure and a text."""
