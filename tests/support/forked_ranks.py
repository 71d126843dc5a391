"""Other ranks of a training, forked from the first one; a module that imports little, since every forked command imports it."""

import multiprocessing
import os
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import torch

from kdexp.commands import rank
from kdexp.experiment import other_ranks
from kdexp.training import loop


class ForkedRank:
    """Stands in for `subprocess.Popen`: another rank that need not import torch."""

    def __init__(self, be, words, **_):
        self.process = multiprocessing.get_context("fork").Process(target=be, args=(words,))
        self.process.start()

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout):
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("rank", timeout)

    def kill(self):
        self.process.kill()


def _be_rank(words):
    torch.set_num_threads(1)
    sys.argv = words[2:]
    rank.main()


def _be_killed(words):
    """A rank that is killed in its second epoch."""
    seed_of = loop.rank_seed

    def killed(seed, number, epoch):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return seed_of(seed, number, epoch)

    loop.rank_seed = killed
    _be_rank(words)


def fork_ranks(be=_be_rank):
    """Has this process fork the other ranks of its trainings."""
    start = partial(ForkedRank, be)
    other_ranks.subprocess = SimpleNamespace(Popen=start, TimeoutExpired=subprocess.TimeoutExpired, DEVNULL=None)


fork_killed_ranks = partial(fork_ranks, _be_killed)
