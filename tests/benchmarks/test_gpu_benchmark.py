"""`benchmarks/gpu.py`: its parts, its page, and what it does where a part fails or takes too long."""

import json
import runpy
import sys
import time
from pathlib import Path

import gpu
import pytest
from gpu_parts import catalogue, one, page, process, tests
from gpu_parts.context import Context, CutOff, Item, Skipped
from processes import CONTEXT

ROOT = Path(__file__).parents[2]
LONG = 10_000
"""Seconds, on a machine that may be busy."""


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the benchmark; returns its exit code and what it printed."""

    def main(*words):
        monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            gpu.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out + printed.err

    return main


def in_forked_process(command, seconds, *, log=None, grace=10, apart=False):
    """Stands in for `process.run`: the same command in a process that need not import everything anew."""
    assert command[:3] == [sys.executable, "-m", "gpu_parts.one"] and seconds > 0
    worker = CONTEXT.Process(target=_part, args=(command[3:], str(log)))
    worker.start()
    worker.join(seconds)
    return f"exit code {worker.exitcode}" if worker.exitcode else ""


def _part(words, log):
    sys.argv = ["one", *words]
    with open(log, "w") as file:
        sys.stdout = sys.stderr = file
        one.main()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_rehearsal_has_every_part_and_numbers(tmp_path, monkeypatch, call):
    monkeypatch.setattr(gpu, "run", in_forked_process)
    code, printed = call("--rehearse", "--seconds", LONG, "--output", tmp_path)
    logs = {path.name: path.read_text()[-2000:] for path in (tmp_path / "logs").iterdir()}
    assert code == 0, (printed, logs)
    results, text = json.loads((tmp_path / "gpu.json").read_text()), (tmp_path / "gpu.md").read_text()
    assert list(results["parts"]) == list(catalogue.PARTS)
    assert text.startswith("# A rehearsal on a CPU: no figure below means anything\n")
    for name, part in results["parts"].items():
        assert f"## {catalogue.PARTS[name].title}\n" in text
        if name == "tests":
            assert (part["state"], part["rows"]) == ("skipped", []) and "a rehearsal has no GPU" in text
        else:
            assert part["state"] == "ok" and part["rows"] and not part["left_out"], (name, part)
            assert all("error" not in row and sum(isinstance(value, float) for value in row.values()) for row in part["rows"])
    ways = [row["loss apart"] for row in results["parts"]["digits"]["rows"]]
    assert ways[0] == 0 and 0 <= ways[1] < 1e-3


def test_the_command_itself_runs_a_part_in_a_process_of_its_own(tmp_path, call):
    code, printed = call("--rehearse", "--seconds", LONG, "--parts", "tests", "--output", tmp_path)
    assert code == 0 and "a rehearsal has no GPU" in printed
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["tests"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--parts", "steps,lops"], "no part 'lops'; there are digits, tests, steps"),
        (["--seconds", "0"], "0: must be above 0"),
        ([], "PyTorch finds no CUDA device here; --rehearse"),
    ],
)
def test_mistakes_are_refused(monkeypatch, call, words, told):
    monkeypatch.setattr(gpu, "this_gpu", dict)
    code, printed = call(*words)
    assert code == 2 and told in printed


def ended(monkeypatch, tmp_path, **ends):
    """Has the parts named end so, each after it has written a row."""

    def run(command, seconds, **_):
        name = command[3]
        one.write(one.place(tmp_path, name), {"rows": [{"ms": 1.5}], "left_out": [], "skipped": ""})
        if ends[name] == "interrupted":
            raise KeyboardInterrupt
        return ends[name]

    monkeypatch.setattr(gpu, "run", run)


def test_a_part_that_fails_or_is_cut_off_keeps_its_rows_and_the_next_one_runs(tmp_path, monkeypatch, call):
    ended(monkeypatch, tmp_path, steps="exit code 1", loops="cut off", memory="")
    code, printed = call("--rehearse", "--parts", "memory,steps,loops", "--output", tmp_path)
    assert code == 1
    assert [line.split()[:2] for line in printed.splitlines()[1:4]] == [["steps", "failed"], ["loops", "cut"], ["memory", "ok"]]
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("| 1.5 |") == 3 and "Failed: exit code 1, see logs/steps.txt." in text and "Cut off: its time" in text


def test_an_interrupted_call_ends_and_a_later_one_keeps_its_rows(tmp_path, monkeypatch, call):
    ended(monkeypatch, tmp_path, steps="interrupted", loops="", memory="")
    code, printed = call("--rehearse", "--parts", "steps,loops", "--output", tmp_path)
    assert code == 130 and "loops     ok" not in printed
    call("--rehearse", "--parts", "memory", "--output", tmp_path)
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["steps", "memory"]
    monkeypatch.setattr(gpu, "version", lambda _: "another")
    call("--rehearse", "--parts", "loops", "--output", tmp_path)
    assert list(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == ["loops"]


def test_parts_share_the_time_and_later_ones_have_what_is_left(tmp_path, monkeypatch, call):
    given = []
    monkeypatch.setattr(gpu, "run", lambda command, seconds, **_: given.append(seconds) or "")
    call("--rehearse", "--seconds", 140, "--parts", "digits,memory,pair", "--output", tmp_path)
    assert given == pytest.approx([10, 140 / 13, 140], abs=3)  # the parts that ran took no time
    given.clear()
    call("--rehearse", "--seconds", 20, "--parts", "digits,pair", "--output", tmp_path)
    assert given == pytest.approx([20], abs=3)
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"]["digits"]["state"] == "skipped"


def part_of(monkeypatch, items):
    module = type(sys)("gpu_parts.mine")
    module.items = items
    monkeypatch.setitem(sys.modules, "gpu_parts.mine", module)


def context(tmp_path, seconds=LONG):
    return Context("cpu", True, tmp_path, "data", time.time() + seconds)


def test_an_item_that_fails_has_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    part_of(monkeypatch, lambda _: [Item({"way": "odd"}, lambda: 1 / 0), Item({"way": "even"}, lambda: [{"ms": 1}, {"ms": 2}])])
    rows = [{"way": "odd", "error": "ZeroDivisionError: division by zero"}, {"way": "even", "ms": 1}, {"way": "even", "ms": 2}]
    assert one.measure("mine", context(tmp_path)) == {"rows": rows, "left_out": [], "skipped": ""}
    assert json.loads(one.place(tmp_path, "mine").read_text())["rows"] == rows


def test_items_without_time_are_named_and_larger_tables_replace_smaller_ones(tmp_path, monkeypatch):
    def cut_off():
        raise CutOff("seed=0,1")

    items = [Item({}, lambda: {"n": 1}, True), Item({}, lambda: {"n": 2}, True), Item({}, cut_off, True)]
    part_of(monkeypatch, lambda _: items)
    assert one.measure("mine", context(tmp_path)) == {"rows": [{"n": 2}], "left_out": ["seed=0,1"], "skipped": ""}
    part_of(monkeypatch, lambda _: [Item({"pair": "a", "way": "b"}, dict)])
    assert one.measure("mine", context(tmp_path, 1))["left_out"] == ["a, b"]


def test_a_part_may_skip_itself(tmp_path, monkeypatch):
    def items(_):
        raise Skipped("no such thing here")
        yield

    part_of(monkeypatch, items)
    assert one.measure("mine", context(tmp_path))["skipped"] == "no such thing here"


PROGRAMS = {
    "print('done')": "",
    "raise SystemExit(3)": "exit code 3",
    "import time; time.sleep(60)": "cut off",
    "import signal, time; signal.signal(2, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)": "cut off",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_command_ends_by_itself_or_is_ended(tmp_path, program):
    seconds = 0.5 if PROGRAMS[program] == "cut off" else LONG
    begin = time.monotonic()
    assert (
        process.run([sys.executable, "-c", program], seconds, log=tmp_path / "log", grace=0.2, apart=True) == PROGRAMS[program]
    )
    assert time.monotonic() - begin < 50


def test_the_counts_of_a_test_report(tmp_path):
    cases = '<testcase time="1.5"/><testcase><failure/></testcase><testcase><error/></testcase><testcase><skipped/></testcase>'
    (tmp_path / "junit.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert tests.numbers(tmp_path / "junit.xml") == {"passed": 1, "failed": 2, "skipped": 1, "s": 1.5}
    assert "tests/device/test_gpu.py" in [str(path.relative_to(ROOT)) for path in tests.files(ROOT / "tests")]


@pytest.mark.slow
def test_tests_that_need_a_gpu_are_run_and_counted(tmp_path):
    mark = "@pytest.mark.gpu\n"
    code = ["import pytest\n", mark, "def test_good(): pass\n", mark, "def test_bad(): assert 0\n", "def test_other(): pass\n"]
    (tmp_path / "test_mine.py").write_text("".join(code))
    (tmp_path / "parts").mkdir()
    row = tests.counted([tmp_path / "test_mine.py"], "gpu", context(tmp_path))
    assert (row["passed"], row["failed"], row["error"]) == (1, 1, "1 failed, see the log")


@pytest.mark.parametrize(
    ("end", "more"),
    [("", {}), ("exit code 5", {}), ("cut off", {"note": "cut off"}), ("exit code 4", {"error": "pytest: exit code 4"})],
)
def test_how_pytest_ended_is_told(end, more):
    row = {"passed": 2, "failed": 0, "skipped": 0, "s": 1.0}
    assert tests.judged(row, end) == row | more


def test_a_table_shows_numbers_with_four_digits_and_dashes_for_what_is_missing():
    rows = [{"way": "a|b", "ms": 1.23456, "n": 50_000}, {"way": "c", "ms": None, "more": 0.00001}]
    assert page.table(rows).splitlines() == [
        "| way | ms | n | more |",
        "| --- | --: | --: | --: |",
        "| a\\|b | 1.235 | 50,000 | – |",
        "| c | – | – | 1.0e-05 |",
    ]
    assert page.table([]) == ""


def test_stored_figures_of_a_gpu_have_a_section_in_the_docs(tmp_path):
    make = runpy.run_path(str(ROOT / "docs" / "make_speed.py"))
    part = {
        "state": "ok",
        "reason": "",
        "date": "2026-01-02",
        "left_out": ["a", "b", "c", "d"],
        "rows": [{"way": "x", "ms": 2.5}],
    }
    results = {"rehearsal": False, "machine": {"device": "Some GPU", "GiB": 4}, "parts": {"steps": part}}
    (path := tmp_path / "gpu_some.json").write_text(json.dumps(results))
    sections = make["gpu_sections"](path)
    assert sections[:2] == ["## Some GPU", "Measured by `python benchmarks/gpu.py`, 2026-01-02; GiB 4."]
    assert sections[-2:] == ["| way | ms |\n| --- | --: |\n| x | 2.5 |", "No time was left for a; b; c; 1 more."]
    path.write_text(json.dumps(results | {"rehearsal": True}))
    with pytest.raises(ValueError, match="a rehearsal mean nothing"):
        make["gpu_sections"](path)
