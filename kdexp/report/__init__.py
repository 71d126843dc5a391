"""The report of a run: comparison table, its files, curves, diagnosis."""
