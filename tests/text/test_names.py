"""Names with line breaks or control characters neither split lines nor reach the terminal."""

import io
import json
import re
import sys
import xml.etree.ElementTree as ET

import pytest
from crafted import craft
from crafted_sweeps import CraftedSweep
from experiments import said

from kdexp.commands import store as inventory
from kdexp.commands.report import print_report
from kdexp.commands.run import report
from kdexp.errors import BadCheckpoint, InvalidArguments, Problem, first_line
from kdexp.experiment.journal import Journal
from kdexp.experiment.obtain import obtain
from kdexp.report.rows import Row
from kdexp.report.table import COLUMNS, draw_table, markdown
from kdexp.text.console import Screen

EVIL = "a\x1b[31mb\nc|\u202ed\x9be [/red] $x$ <i>"
SHOWN = r"a\x1b[31mb\nc|\u202ed\x9be [/red] $x$ <i>"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_a_row_is_a_line_in_markdown_and_on_the_screen(make_experiment):
    rows = [Row("baseline", EVIL, EVIL, "k", n=1), Row("distilled", "net", "kd", "k", status=f"failed: {EVIL}")]
    text = markdown(rows, COLUMNS)
    assert len(text.splitlines()) == 4 and not FORBIDDEN.search(text)
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines()}) == 1, "as many cells in every line"
    screen = io.StringIO()
    Screen(screen, width=300).print(draw_table(rows, make_experiment(), 300), markup=False)
    assert not FORBIDDEN.search(screen.getvalue()) and SHOWN in screen.getvalue()


@pytest.mark.slow
def test_a_sweep_of_evil_names_is_reported(tmp_path, monkeypatch):
    for name in ("model", "method"):
        real = CraftedSweep.learner
        monkeypatch.setattr(CraftedSweep, "learner", lambda *given, real=real, name=name, **k: real(*given, **k | {name: EVIL}))
    sweep = CraftedSweep(tmp_path, name="evil\x1b[31m\u202e")
    for seed in (0, 1):
        sweep.job(f"seed={seed}", seed=seed, distillation__temperature=4.0 + seed, choices__dataset=EVIL)
    sweep.job("seed=2", f"dataset={EVIL}", seed=2, state="failed", reason=f"because of {EVIL}")
    folder, screen = sweep.close(), io.StringIO()
    print_report([folder], tmp_path / "out", Screen(screen, width=200))
    texts = {
        path.name: path.read_text("utf-8") for path in (tmp_path / "out").rglob("*") if path.suffix in (".md", ".html", ".svg")
    }
    assert {"sweep.md", "report.html"} < set(texts) and len(texts) > 2
    for name, text in {**texts, "screen": screen.getvalue()}.items():
        assert not FORBIDDEN.search(text), name
        if name.endswith(".svg"):
            ET.fromstring(text)
    assert f"because of {SHOWN}" in texts["sweep.md"] and f"because of {SHOWN}" in screen.getvalue()


def test_a_store_of_evil_names_is_listed_and_shown(tmp_path, monkeypatch, capsys):
    learner = craft(tmp_path / "st\x1b[31more")
    result = json.loads((learner / "result.json").read_text())
    result |= {"model": EVIL, "method": EVIL, "dataset": EVIL}
    result["spec"] |= {"seed": 0, "epochs": 1}
    (learner / "result.json").write_text(json.dumps(result))
    for words in (["list"], ["show", learner.name], ["verify"], ["show", EVIL], ["prune", "--all"]):
        monkeypatch.setattr(sys, "argv", ["kdexp-store", *words, "--store", str(tmp_path / "st\x1b[31more")])
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit):
            inventory.main()
        shown = capsys.readouterr()
        assert not FORBIDDEN.search(shown.out + shown.err) and shown.out + shown.err


@pytest.mark.slow
def test_a_run_with_evil_names_is_reported_line_by_line(make_experiment, tmp_path):
    experiment = make_experiment("diagnosis=always")
    experiment.config["choices"] |= {"student": EVIL, "dataset": EVIL}
    experiment.journal = Journal(Screen(io.StringIO(), width=80))
    experiment.journal.open_log(tmp_path / "log.txt")
    report(tmp_path, obtain(experiment), experiment, experiment.journal)
    experiment.journal.close_log()
    for text in (said(experiment), (tmp_path / "log.txt").read_text("utf-8"), (tmp_path / "table.md").read_text("utf-8")):
        assert not FORBIDDEN.search(text) and "\nc|" not in text


def test_a_journal_keeps_a_sentence_on_its_line_and_a_traceback_on_its_lines(make_experiment, tmp_path):
    journal = make_experiment().journal
    journal.open_log(tmp_path / "log.txt")
    for speak in (journal.say, journal.warn, journal.headline):
        speak(EVIL)
    journal.note("one\n\ttwo\x1b[0m\nthree")
    journal.close_log()
    lines = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert lines == [SHOWN, f"warning: {SHOWN}", SHOWN, "one", r"\ttwo\x1b[0m", "three"]
    assert journal.console.file.getvalue().splitlines() == lines[:3]


def test_a_run_warns_and_continues_if_its_log_can_not_be_opened(make_experiment, tmp_path):
    journal = make_experiment().journal
    journal.open_log(tmp_path / "nowhere" / "log.txt")
    journal.say("on")
    assert journal.console.file.getvalue().startswith("warning: no log: ") and "No such file" in journal.console.file.getvalue()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (BadCheckpoint("a\nb.pt is no checkpoint"), r"a\nb.pt is no checkpoint"),
        (InvalidArguments([Problem("root", "='a\nb': no such folder")]), r"root='a\nb': no such folder"),
        (RuntimeError("out of memory\nand much more"), "out of memory"),
        (ValueError(""), "ValueError"),
    ],
)
def test_our_own_error_messages_are_one_line(error, words):
    assert first_line(error) == words


def test_a_path_that_is_not_unicode_is_written_unchanged(tmp_path):
    from kdexp.files import write_whole

    write_whole(tmp_path / "command.txt", "kdexp dataset.root=b\udcff")
    assert (tmp_path / "command.txt").read_bytes() == b"kdexp dataset.root=b\xff"


@pytest.mark.slow
def test_a_dollar_sign_in_a_legend_is_drawn_literally(make_experiment, tmp_path):
    from kdexp.report.curves import draw_curves

    experiment = make_experiment()
    (entry,) = obtain(experiment, ["baseline"])
    entry.model = r"$\frac$ \x1b[31m"
    draw_curves(tmp_path, [entry], experiment, experiment.journal)
    assert (tmp_path / "curves.png").stat().st_size > 1000
