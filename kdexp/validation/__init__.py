"""Checks of a configuration before anything runs."""
