"""Trained students for other programs."""
