"""Refusals of a command: what is wrong with it, all at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdexp.commands.process import BAD_CONFIG
from kdexp.errors import Problem
from kdexp.text.characters import one_line


def refuse(problems: Sequence[Problem]) -> int:
    """Prints a refusal; returns the exit code."""
    print(refusal(problems), file=sys.stderr)
    return BAD_CONFIG


def refusal(problems: Sequence[Problem]) -> str:
    """The text of a refusal: how many problems there are, then a line for each."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [_shortened(one_line(problem)) for problem in problems]
    return "\n".join([f"kdexp: {count} in this command, nothing was run", *(f"  {line}" for line in lines)])


LONGEST_LINE = 2_000
"""Characters of a problem's line, since values may be long."""


def _shortened(line: str) -> str:
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} … {line[-half:]}"
