"""The parts in the order in which they run, with what the page says about them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part: its share of the time relative to the others', and its section of the page.

    The part's module has its name and a function `items`.
    """

    share: int
    title: str
    about: str


PARTS = {
    "digits": Part(
        1,
        "The default run",
        "`kdexp` on the digits, and the same computed in other ways. *loss apart* is the largest difference of a network's "
        "mean loss in an epoch to that of the first row, relative to it.",
    ),
    "tests": Part(
        3, "The tests that need a GPU", "`pytest -m gpu`: replayed steps against plain ones, streams, copies, memory."
    ),
    "steps": Part(
        3,
        "Time of a training step",
        "Random images of CIFAR's shape, all of them on the device; teachers have random weights. *distilled* is by `kd`; "
        "*of it teacher* is what the teacher's outputs take that are asked for between epochs, *outputs* how they are looked "
        "up. *in full* is the whole training on 50,000 images without evaluation.",
    ),
    "loops": Part(
        3,
        "The PyTorch tutorial's loop",
        "The tutorial's networks on CIFAR-10-shaped images, each phase trained by the tutorial's own loop, by one that follows "
        "the usual advice (*strong*), and by kdexp; `benchmarks/bench.py` explains the rows. *kd* is distilling by `hint`.",
    ),
    "lockstep": Part(
        2,
        "Students trained together",
        "Students of the tutorial distilled by `kd` in one loop, as in `hydra/launcher=lockstep`; *times one* compares the "
        "step of all with that of a single one.",
    ),
    "memory": Part(
        1,
        "A GPU with 4 GB",
        "Jobs on 50,000 images where PyTorch may use 3.5 GiB, which leaves the rest of such a GPU to CUDA itself. *peak GiB* "
        "is what PyTorch has reserved.",
    ),
    "pair": Part(
        12,
        "A published pair",
        "Kim et al. 2021: WRN-16-4 teaches WRN-16-2 on CIFAR-100, trained in full, `experiment=kim2021_wrn_16_4_wrn_16_2 "
        "sweep=kim2021_row`. It goes on where an earlier call of the same command was cut off.",
    ),
}
