"""README and docs, and the code in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


def blocks(page, kind):
    """The fenced blocks of a page, without their fences."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGES[page], re.S)
