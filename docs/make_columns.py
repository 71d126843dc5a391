"""Writes docs/columns.md from the glossary of columns.

python docs/make_columns.py
"""

from __future__ import annotations

from pathlib import Path

from kdexp.text.glossary import page

PAGE = Path(__file__).resolve().parent / "columns.md"

if __name__ == "__main__":
    PAGE.write_text(page())
