"""The bibliography of the package, `references.yaml`, and its entries as BibTeX."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kdexp.text.latex import escape

Kind = str
"""A part of the bibliography: `methods`, `pretraining`, `networks`, `data` or `protocols`."""


@cache
def references() -> dict[str, dict[str, Any]]:
    """The bibliography: `papers` by key, and the keys of each method, pretraining, network, data set and protocol."""
    return yaml.safe_load(Path(__file__).with_name("references.yaml").read_text("utf-8"))


def cited(kind: Kind, name: str) -> list[str] | None:
    """Keys of the papers behind a name, none if there are none to cite; None for a name that is not in the bibliography."""
    return references()[kind].get(name)


def with_eprint(text: str) -> list[str]:
    """Keys of the papers whose arXiv number is in a text, such as the source of published numbers."""
    return [key for key, paper in references()["papers"].items() if paper.get("eprint", "-") in text]


def bibtex(key: str) -> str:
    """The entry of a paper, in ASCII."""
    paper = references()["papers"][key]
    author = paper["author"]
    fields = {"author": f"{{{author}}}" if isinstance(author, str) else " and ".join(map(escape, author))}
    fields["title"] = f"{{{escape(paper['title'])}}}"
    fields |= {name: str(value) for name, value in paper.items() if name not in fields}
    if "eprint" in paper:
        fields["archivePrefix"] = "arXiv"
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{_type(paper)}{{{key},\n{lines}}}\n"


def _type(paper: dict[str, Any]) -> str:
    types = {"journal": "article", "booktitle": "inproceedings", "institution": "techreport"}
    return next((kind for name, kind in types.items() if name in paper), "misc")
