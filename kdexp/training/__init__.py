"""Learners and the train loop."""
