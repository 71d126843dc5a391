"""The benchmark's participants do the same work, and kdexp does it no slower than the loop that people copy."""

import json
import os
import sys
from dataclasses import replace

import bench
import pytest
import results
import startup
import torch
from load import LoadMeter, busy_seconds, warning
from ours import command_of
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


def test_the_load_is_what_others_take_besides_this_process(monkeypatch):
    moments = iter([(0.0, 0.0), (4.0, 10.0)])  # CPU seconds of this process, of the machine
    now = [0.0]
    monkeypatch.setattr("load.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("load.os.cpu_count", lambda: 2)
    monkeypatch.setattr("load.own_seconds", lambda: moment[0])
    monkeypatch.setattr("load.busy_seconds", lambda: moment[1])
    moment = next(moments)
    meter = LoadMeter()
    moment, now[0] = next(moments), 5.0
    load = meter.stop()
    assert (load.cpu_seconds, load.others) == (4.0, 0.6)


def test_busy_seconds_leave_out_idle_cores(tmp_path):
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "stat").write_text(f"cpu  {ticks} {ticks} {ticks} 9999 9999 {ticks} {ticks} {ticks} 0 0\ncpu0 1 1 1 1\n")
    assert busy_seconds(tmp_path / "stat") == 6
    assert busy_seconds(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([0.0, 0.05], ""),
        ([None, None], ""),
        ([], ""),
        ([0.02, 0.41], "between 2 % and 41 %"),
        ([0.5, 0.55], "up to 55 %"),
    ],
)
def test_a_busy_machine_is_warned_of(shares, told):
    assert told in warning(shares) and bool(told) == bool(warning(shares))


def test_results_go_to_the_current_folder_and_keep_other_phases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bench.py"])
    asked = bench.arguments()
    assert "kdexp" in asked.only and "kdexp fast graph" not in asked.only
    results.write(asked.output, {"a": 1}, phase="kd")
    results.write(asked.output, {"b": 2}, phase="main")
    assert json.loads((tmp_path / "outputs/bench/bench_ci.json").read_text()) == {"kd": {"a": 1}, "main": {"b": 2}}


def test_graphs_are_refused_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--only", "tutorial", "kdexp fast graph"])
    with pytest.raises(SystemExit):
        bench.arguments()
    assert "kdexp fast graph: graphs are recorded on CUDA only" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_is_timed_until_its_first_training_step(tmp_path):
    words = command_of(work(tmp_path, "main", epochs=1), tmp_path / "outputs")
    assert 0.1 < startup.seconds_of([startup.__file__, *words]) < 600
    assert not list(tmp_path.glob("outputs/store/learner/*/result.json"))  # it ended before


def test_a_command_that_fails_before_its_first_step_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="no such thing"):
        startup.seconds_of(["-c", "raise SystemExit('no such thing')"])


def test_the_start_has_a_line_for_each_and_its_warning(tmp_path, monkeypatch, capsys):
    moments = iter(range(10))
    monkeypatch.setattr(startup, "seconds_of", lambda command: float(next(moments)))
    found = startup.compare(work(tmp_path, "startup"), turns=2)
    assert [row["seconds"] for row in found["rows"].values()] == [[2, 4], [3, 5]]
    startup.print_table("start", found | {"warning": "busy"})
    printed = capsys.readouterr().out
    assert "first training step     3.0 s, median   4.0 s" in printed and "warning: busy" in printed
