"""Data sets: reading them from disk, splitting them, and serving them in batches."""
