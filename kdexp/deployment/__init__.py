"""Trained networks for use in other programs: loading and exporting."""
