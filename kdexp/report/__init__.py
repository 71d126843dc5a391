"""What a run shows: the comparison table, its files, the curves."""
