"""Checkpoints: reading files of weights without executing them, and fitting the weights to a network."""
