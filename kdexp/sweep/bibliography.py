"""What a paper with these tables should cite: the papers behind their methods, networks, data, protocols and numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from kdexp.configuration.roles import node_at, role_spec
from kdexp.pretraining.settings import method_of
from kdexp.report.references import bibtex, cited, with_eprint
from kdexp.sweep.comparison import Comparison
from kdexp.sweep.origins import Origins
from kdexp.sweep.read import Job
from kdexp.text.characters import encodable, one_line

MODULES = {"kdexp.distillation.": "methods", "kdexp.pretraining.": "pretraining", "kdexp.models.": "networks"}
SINGULAR = {"methods": "method", "networks": "network", "data": "data set", "protocols": "protocol"}


def bibliography(comparison: Comparison, origins: Origins) -> str:
    """BibTeX entries with a comment on what each is cited for, after comments on what has none."""
    reasons, without = defaultdict[str, list[str]](list), list[str]()
    for kind, name in dict.fromkeys(_subjects(comparison, origins)):
        keys = cited(kind, name)
        for key in keys or ():
            reasons[key].append(f"{SINGULAR.get(kind, kind)} {name}")
        if keys is None:
            without.append(f"{SINGULAR.get(kind, kind)} {name}: not in kdexp's bibliography, add its source yourself")
        elif not keys:
            without.append(f"{SINGULAR.get(kind, kind)} {name}: nothing to cite")
    for row in (row for table in comparison.tables for row in table.rows if row.published):
        for key in with_eprint(row.published.source) if row.published else ():
            reasons[key] += ["published numbers"] if "published numbers" not in reasons[key] else []
    head = "".join(f"{_comment(line)}\n" for line in without)
    return (
        head
        + "\n" * bool(head)
        + "\n".join(f"{_comment(', '.join(why))}\n{bibtex(key)}" for key, why in sorted(reasons.items()))
    )


def _comment(text: str) -> str:
    """A line that BibTeX skips, which an @ would end."""
    return f"% {encodable(one_line(text), 'ascii')}".replace("@", "(at)")


def _subjects(comparison: Comparison, origins: Origins) -> Iterator[tuple[str, str]]:
    """Kind and name of everything that the tables are about."""
    for row in (row for table in comparison.tables for row in table.rows):
        for job in origins.jobs(row):
            yield from _of_role(row.role, job) if job.config else ()


def _of_role(role: str, job: Job) -> Iterator[tuple[str, str]]:
    part, choices = role_spec(role, job.config), job.config["choices"]
    yield from _targets(node_at(job.config, part.method), "methods")
    if part.start:
        yield from _targets(method_of(job.config[part.start]), "pretraining")
    yield from _targets(node_at(job.config, part.model), "networks")
    yield "data", str(choices["dataset"])
    if protocol := choices.get("protocol"):
        yield "protocols", str(protocol)


def _targets(node: Any, usual: str) -> Iterator[tuple[str, str]]:
    """Methods and networks in a node, and in the nodes inside it, by the modules of their classes.

    A class from elsewhere is of the `usual` kind, under its whole name.
    """
    if isinstance(node, dict) and "_target_" in node:
        target = str(node["_target_"])
        kind = next((kind for start, kind in MODULES.items() if target.startswith(start)), "")
        yield (kind, target.split(".")[2]) if kind else (usual, target)
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for inner in inside:
        yield from _targets(inner, usual)
