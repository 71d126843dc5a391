"""The report of a sweep: reads its jobs from disk, averages seeds, compares with baselines. Does not import torch."""

from kdexp.sweep.comparison import Comparison, fold
from kdexp.sweep.read import NothingToReport, Sweep, read
from kdexp.sweep.table import show
from kdexp.sweep.write import write

__all__ = ["Comparison", "NothingToReport", "Sweep", "fold", "read", "show", "write"]
