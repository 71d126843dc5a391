"""What a table of a search's final training says about the search: how many trials, and on what the values were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdexp.sweep.axes import AxisValues
from kdexp.text.numbers import count, percent

SEARCH, JOURNAL = "search.json", "search.journal"
"""Files in the folder of a search: what was chosen, declared as `Searched`, and every trial."""

TRIALS = "trials"
"""Folder of the trials' jobs in the folder of a search; `jobs.json` lists only the final ones."""


def search_of(folder: Path) -> Path | None:
    """The search whose trials are in a folder, or of which the folder is a trial; None if there is none."""
    place = folder.absolute()
    holding = next((one for one in (place, place.parent) if one.name == TRIALS and (one.parent / JOURNAL).exists()), None)
    return holding.parent if holding else None


def chosen_among(role: str, method: str, settings: AxisValues, search: Mapping[str, Any]) -> int | None:
    """Among how many trials a row's values were chosen; None for one that was not chosen, such as another's baseline."""
    if role == "distilled":
        return search["methods"].get(method, {}).get("trials")
    chosen = search["baselines"] if role == "baseline" else []
    return next((found["trials"] for found in chosen if found["settings"].items() <= settings.items()), None)


def seed_words(seeds: Sequence[int]) -> str:
    """The seeds in words, such as `seeds 0, 1, 2`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def sentences(search: Mapping[str, Any]) -> Iterator[str]:
    """Remarks on a search."""
    counts = "; ".join(f"{name} {_ended(found)}" for name, found in search["methods"].items())
    seeds, fresh = (seed_words(search[name]) for name in ("seeds", "fresh_seeds"))
    beside = search["baselines"][0]["trials"] if search["baselines"] else 0
    yield f"Search ({search['sampler']}): {counts}; {count(beside, 'distinct baseline')} next to them."
    yield (
        f"Values were chosen by mean validation accuracy with {seeds}, never by test accuracy; "
        f"this table has fresh ones: {fresh}."
    )
    for name, found in search["methods"].items():
        if found["validation"] is not None:
            yield f"{name}: {' '.join(found['words'])} was best, with {percent(found['validation'])} % on validation images."


def _ended(found: Mapping[str, Any]) -> str:
    ended = [f"{found[state]} {state}" for state in ("pruned", "failed") if found[state]]
    return count(found["trials"], "trial") + (f" ({', '.join(ended)})" if ended else "")
