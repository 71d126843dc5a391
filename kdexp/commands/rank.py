"""One of the other ranks of a training: `python -m kdexp.commands.rank JSON`, started by the first one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

from kdexp.commands.process import SOME_FAILED
from kdexp.errors import first_line
from kdexp.text.console import print_error


def main() -> None:
    """Trains what the first rank says until it says no more; ends quietly when that one has ended."""
    given = json.loads(sys.argv[1])
    sys.path[:] = given["path"]
    import torch

    from kdexp.device import ranks
    from kdexp.device.meeting import come_to, wait_for_all
    from kdexp.experiment.other_ranks import HERE, place

    def join() -> None:
        store = come_to(HERE, given["port"])
        wait_for_all(store, given["rank"], given["ranks"], lambda: None)
        ranks.join(store, given["rank"], given["ranks"], place(torch.device(given["device"]), given["rank"]))

    sys.exit(follow(join, given["rank"]))


def follow(join: Callable[[], None], rank: int) -> int:
    """Joins the other ranks as that one, and trains what the first says until it says no more; returns the exit code."""
    from kdexp.device import ranks

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first rank, whose end is the end of all
    try:
        join()
        _train()
        ranks.leave()
    except ranks.RankLost as lost:
        if str(lost) != ranks.ENDED:
            print_error("kdexp", str(lost))
        return SOME_FAILED
    except Exception as error:  # the first one can't know it
        print_error("kdexp", f"rank {rank} failed: {type(error).__name__}: {first_line(error)}")
        return SOME_FAILED
    return 0


def _train() -> None:
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


if __name__ == "__main__":
    main()
