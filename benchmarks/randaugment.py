"""CPU time of RandAugment in bulk, compared with Pillow image by image, on one thread.

python benchmarks/randaugment.py                  # FixMatch's list on 448 images of 32×32
python benchmarks/randaugment.py --strong usb     # another list of conf/strong

Both do the same operations to the same images, which they hold in the form they need, and return one array; the results are
compared first. Turns alternate in one process, so that other load affects both equally; medians are compared. `fixed shapes` is
the way of a GPU, where all images go through all operations, measured on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from unittest import mock

import numpy as np
import torch
from by_pillow import as_image, even_cutout, inclusive_cutout, operated
from PIL import Image

from kdexp.configuration.compose import compose_command
from kdexp.configuration.nodes import build
from kdexp.data.randaugment import steps
from kdexp.data.randaugment.operations import COLUMNS
from kdexp.data.randaugment.policy import RandAugment


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--strong", default="fixmatch", help="a list in conf/strong")
    parser.add_argument("--images", type=int, default=448)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--turns", type=int, default=15, help="of each, after one to warm up")
    asked = parser.parse_args()
    print(json.dumps(compare(asked.strong, asked.images, asked.size, asked.turns), indent=1))


def compare(strong: str, images: int = 448, size: int = 32, turns: int = 15) -> dict[str, float]:
    """Returns the medians of CPU milliseconds per batch, and their ratio; raises `ValueError` if the results differ."""
    torch.set_num_threads(1)
    policy: RandAugment = build(compose_command([f"strong@dataset.strong={strong}"])["dataset"]["strong"])
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, size, size), generator=generator, dtype=torch.uint8)
    choice = policy.draw(images, generator)
    singles, rows = [as_image(each) for each in pixels], choice.tolist()

    def fixed_shapes() -> torch.Tensor:
        with mock.patch.object(steps, "fixed_shapes", lambda _device: True):
            return policy.apply(pixels, choice)

    ways: dict[str, Callable] = {
        "bulk": lambda: policy.apply(pixels, choice),
        "Pillow": lambda: by_pillow(policy, singles, rows),
        "fixed shapes": fixed_shapes,
    }
    expected = torch.from_numpy(ways["Pillow"]()).permute(0, 3, 1, 2)
    if not all(torch.equal(ways[way](), expected) for way in ("bulk", "fixed shapes")):
        raise ValueError("the images differ from Pillow's")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, run in ways.items():
            begin = time.process_time()
            run()
            seconds[way].append(time.process_time() - begin)
    medians = {f"{way} ms": 1000 * statistics.median(times) for way, times in seconds.items()}
    return {name: round(value, 2) for name, value in medians.items()} | {
        "ratio": round(medians["bulk ms"] / medians["Pillow ms"], 3)
    }


def by_pillow(policy: RandAugment, images: list[Image.Image], rows: list[list[float]]) -> np.ndarray:
    """The images [N, H, W, 3] after the same steps."""
    fill, colour = (tuple(values * 3 if len(values) == 1 else values) for values in (policy.fill, policy.cutout_fill))
    cutout = inclusive_cutout if policy.cutout_inclusive else even_cutout
    done = []
    for image, row in zip(images, rows, strict=True):
        for first in range(0, len(row), COLUMNS):
            kind, amount, y, x = row[first : first + COLUMNS]
            name = steps.NAMES[int(kind)]
            image = cutout(image, amount, y, x, colour) if name == "cutout" else operated(image, name, amount, fill)
        done.append(np.asarray(image))
    return np.stack(done)


if __name__ == "__main__":
    main()
