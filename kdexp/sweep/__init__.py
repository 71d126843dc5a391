"""One table per sweep: jobs read from disk, seeds folded, differences with their intervals. Needs no torch."""

from kdexp.sweep.comparison import Comparison, fold
from kdexp.sweep.read import NothingToReport, Sweep, read
from kdexp.sweep.table import show
from kdexp.sweep.write import write

__all__ = ["Comparison", "NothingToReport", "Sweep", "fold", "read", "show", "write"]
