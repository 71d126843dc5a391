"""One of the other ranks of a training: `python -m kdexp.commands.rank JSON`, started by the first one."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Trains what the first rank says until it says no more; ends quietly when that one has ended."""
    given = json.loads(sys.argv[1])
    sys.path[:] = given["path"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first rank, whose end is the end of all
    import torch

    from kdexp.device import ranks
    from kdexp.experiment.other_ranks import place

    device = place(torch.device(given["device"]), given["rank"])
    try:
        ranks.join(Path(given["meeting"]), given["rank"], given["ranks"], device)
        follow()
    except ranks.RankLost:
        sys.exit(1)


def follow() -> None:
    """Trains what the first rank says until it says no more."""
    from kdexp.device import ranks
    from kdexp.experiment.experiment import Experiment
    from kdexp.experiment.journal import Journal
    from kdexp.experiment.obtain import train_group
    from kdexp.experiment.session import Session
    from kdexp.text.console import Screen

    session = Session()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        journal = Journal(Screen(nowhere), quiet=True)
        while (told := ranks.listen()) is not None:
            config, entries = told
            train_group(entries, Experiment(config, journal, session))
    ranks.leave()


if __name__ == "__main__":
    main()
