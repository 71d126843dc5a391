"""The settings of a search: the keys of `conf/search/`, which explains them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count, islice
from typing import Literal

from kdexp.configuration.arguments import Checked, Count, Seed
from kdexp.errors import Problem

FRESH_SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class SearchSettings(Checked):
    """Types and ranges of the settings of a search."""

    sampler: Literal["tpe", "random", "grid"]
    trials: Count | None
    seeds: list[Seed]
    fresh_seeds: list[Seed] | None
    pruner: Literal["none", "median"]
    seed: Seed
    parallel: Count | None

    @property
    def final_seeds(self) -> list[int]:
        """The seeds of the final training, none of which was used for choosing."""
        unused = (seed for seed in count() if seed not in self.seeds)
        return list(islice(unused, FRESH_SEEDS)) if self.fresh_seeds is None else list(self.fresh_seeds)

    @property
    def learns(self) -> bool:
        """Whether what becomes of a trial depends on the results of earlier ones."""
        return self.sampler == "tpe" or self.pruner != "none"

    def conflicts(self) -> Iterator[Problem]:
        """Problems of settings that do not go together, or lack what they need; their names begin with `search`."""
        if self.sampler == "tpe" and find_spec("optuna") is None:
            fix = 'pip install "kdexp[search]", or search=random, which needs nothing'
            yield Problem("search", f"='tpe': needs Optuna: {fix}")
        if self.trials is None and self.sampler != "grid":
            yield Problem("search.trials", "=None: only search=grid ends by itself; give a number, such as search.trials=40")
        for name, seeds in (("seeds", self.seeds), ("fresh_seeds", self.final_seeds)):
            if not seeds:
                yield Problem(f"search.{name}", f"=[]: needs at least one seed, such as 'search.{name}=[0,1,2]'")
            if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
                yield Problem(f"search.{name}", f"={seeds}: {repeated[0]} is given twice; keep one")
        if used := sorted(set(self.seeds) & set(self.final_seeds)):
            sentence = f"={self.final_seeds}: {used[0]} is one of search.seeds; the final training needs seeds of its own"
            yield Problem("search.fresh_seeds", sentence)
