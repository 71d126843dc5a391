"""Ends the workers that a Ray cluster runs for a sweep; Ray has no command that ends actors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kdexp.commands.learner import expanded
from kdexp.commands.refusal import refuse
from kdexp.errors import InvalidArguments, Problem
from kdexp.queue import ray_cluster
from kdexp.queue.ray_actors import actors_of, end_actor
from kdexp.text.console import printing
from kdexp.text.numbers import count


@printing("ray_cancel")
def main() -> None:
    """Ends the workers and says how many there were; exit code 2 if there is no connection to Ray."""
    parser = argparse.ArgumentParser("python -m kdexp.commands.ray_cancel", description=__doc__, allow_abbrev=False)
    parser.add_argument("address", metavar="ADDRESS", help="of the cluster, as in hydra.launcher.address")
    parser.add_argument("folder", metavar="SWEEP", type=expanded, help="the folder of a sweep, as kdexp -m prints it")
    arguments = parser.parse_args()
    if why := ray_cluster.missing_for_ray():
        sys.exit(refuse([Problem("ray", why)]))
    try:
        ray_cluster.connect(arguments.address)
    except InvalidArguments as error:
        sys.exit(refuse(error.problems))
    names = actors_of(Path(arguments.folder).resolve())
    for name in names:
        end_actor(name)
    goes_on = "; their training goes on from the last saved epoch when others take it" if names else ""
    print(f"ended {count(len(names), 'worker')} of this sweep{goes_on}")
    sys.exit(0)


if __name__ == "__main__":
    main()
