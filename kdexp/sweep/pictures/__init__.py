"""A comparison in pictures (extra `plot`): settings as a map or a line, accuracy against cost, curves over the epochs."""

from importlib.util import find_spec


def available() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None
