"""Data sets: what is on disk, how it is split, and how it becomes batches."""
