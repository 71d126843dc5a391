"""Trained learners and teacher outputs on disk."""
