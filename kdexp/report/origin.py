"""Where a result comes from, as text."""

from __future__ import annotations

from typing import Any


def versions(provenance: dict[str, Any]) -> str:
    """Versions and hardware of a training, on one line."""
    packages = ", ".join(f"{name} {provenance['versions'][name]}" for name in ("kdexp", "torch"))
    git = provenance["git"]
    commit = f", commit {git['commit'][:10]}{' with changes' if git['changed'] else ''}" if git else ""
    return f"{packages}, Python {provenance['python']} on {provenance['device']}{commit}"


def outcome(name: str, model: str, reached: str, points: float) -> str:
    """The beginning of a sentence on a distilled student: its accuracy, and its difference to the baseline in points."""
    way = "more" if points >= 0 else "less"
    accuracy = f"{model} reaches {reached} % on the test images"
    return f"Distilled with {name}, {accuracy}, {abs(points):.2f} points {way} than its baseline"


ONE_SEED = "with one seed, which says nothing about other seeds"
