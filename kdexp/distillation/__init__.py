"""Distillation methods, one file each: `distillation=NAME` is the method of `NAME.py`."""
