"""The benchmark's participants do the same work, and kdexp does it no slower than the loop that people copy."""

from dataclasses import replace

import bench
import pytest
import torch
from work import PAIRS, Work

IMAGES, EPOCHS, BATCH = 80, 4, 16

OTHER_PHASES = [pytest.param(phase, marks=pytest.mark.exhaustive) for phase in ("teacher", "baseline")]


def work(tmp_path, phase, **changes):
    pair = replace(PAIRS["tutorial"], batch_size=BATCH)
    return replace(Work(pair, phase, IMAGES, 32, EPOCHS, torch.device("cpu"), tmp_path), **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase", [*(pytest.param(phase, marks=pytest.mark.exhaustive) for phase in ("teacher", "baseline")), "kd"]
)
def test_plain_fp32_has_the_losses_of_the_tutorials_loop_after_twenty_steps(tmp_path, phase):
    rows = bench.compare(work(tmp_path, phase), ["tutorial", "by hand", "kdexp"], turns=1)["rows"]
    assert all(row["loss_difference"] <= 1e-6 for row in rows.values())
    asked = {who: row["teacher_images"] for who, row in rows.items()}
    once, always = (IMAGES, IMAGES * EPOCHS) if phase == "kd" else (0, 0)
    assert asked == {"tutorial": always, "by hand": once, "kdexp": once}


@pytest.mark.exhaustive
def test_a_sweep_runs_every_point_and_asks_the_teacher_once(tmp_path):
    small = work(tmp_path, "sweep", images=32, epochs=1)
    rows = bench.compare(small, ["kdexp"], turns=1)["rows"]
    assert rows["kdexp"]["teacher_images"] == 32
    assert len(list(tmp_path.glob("*/sweeps/*/*/table.json"))) == 2 * 9  # the short turn before it too


@pytest.mark.alone
@pytest.mark.slow
def test_distilling_is_quicker_than_the_tutorials_loop_by_far(tmp_path):
    rows = bench.compare(work(tmp_path, "kd"), ["tutorial", "kdexp"], turns=2)["rows"]
    assert rows["kdexp"]["ratio_of_minima"] > 1.5
