"""Printing any text on any stream without errors, and without control characters that a terminal obeys."""

import ast
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from experiments import SHORT
from rich.table import Table

import kdexp
from kdexp.commands import export, predict, run
from kdexp.commands import main as cli
from kdexp.commands import report as command
from kdexp.commands import store as inventory
from kdexp.report.table import HEAD_RULE
from kdexp.text.characters import encodable, one_line, visible
from kdexp.text.console import UNPRINTED, Output, Screen, print_error, printing

EVIL = "a\x1b[31mb\nc\u202ed\x9be\x07"
SHOWN = r"a\x1b[31mb\nc\u202ed\x9be\x07"
FORBIDDEN = ("\x1b[31m", "\u202e", "\x9b", "\x07")


def stream(encoding, errors="strict"):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


def held(output):
    output.flush()
    return output.buffer.getvalue().decode(output.encoding)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("tab\tand carriage\rreturn", r"tab\tand carriage\rreturn"),
        ("\x00\x7f\x85\u2028\u2066\u2069\u200f\u061c", r"\x00\x7f\x85\u2028\u2066\u2069\u200f\u061c"),
        ("naïve 日本 😀 a\u200db", "naïve 日本 😀 a\u200db"),
        ("r\udcc3\udcbcck \udcff", r"rück \xff"),
        ("lone \ud800", r"lone \ud800"),
        (Path("a\nb"), r"a\nb"),
    ],
)
def test_a_name_is_shown_on_one_line(text, shown):
    assert one_line(text) == shown


def test_a_text_keeps_its_lines():
    assert visible("one\n\ttwo\x1b\n") == "one\n\ttwo\\x1b\n"


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("9.5× ★ – — … → ± −", "ascii", "9.5x * - -- ... -> +- -"),
        ("─│┼╰━╸ █▓", "ascii", "-|++-- ##"),
        ("é Å ² ½ ß 日", "ascii", "e A 2 1/2 ss ?"),
        ("9.5× é ± ★", "latin-1", "9.5× é ± *"),
        ("– … ★ ─", "cp1252", "– … * -"),
        ("9.5× ★ 日", "utf-8", "9.5× ★ 日"),
    ],
)
def test_characters_that_an_encoding_lacks_are_replaced_by_similar_ones(text, encoding, shown):
    assert encodable(text, encoding) == shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "cp437", "utf-16", "shift_jis"])
def test_every_character_can_be_printed(encoding):
    out = Output(stream(encoding))
    out.write("".join(map(chr, range(0x3000))) + "\ud800\udcff😀")
    out.flush()
    assert out.error is None


def test_a_table_has_straight_columns_in_ascii(monkeypatch):
    plain = stream("ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    table = Table(box=HEAD_RULE, pad_edge=False, padding=0)
    table.add_column("smaller", justify="right")
    table.add_column("[red]name[/nothing] :warning:")
    table.add_row("9.5×", "±…")
    Screen().print(table)
    heading, rule, row = filter(str.strip, held(plain).splitlines())
    assert "[red]name[/nothing] :warning:" in heading and set(rule.strip()) == {"-"}
    assert row.rstrip() == "    9.5x +-..." and len(row) == len(heading)


def test_tables_and_prints_escape_control_characters(monkeypatch):
    plain = stream("utf-8")
    monkeypatch.setattr(sys, "stdout", plain)
    with printing("kdexp"):
        print(EVIL)
        Screen().print(Table(EVIL, title=EVIL))
        Screen().print(EVIL)
    printed = held(plain)
    assert printed.count(r"\x1b[31m") == 4 and not any(piece in printed for piece in FORBIDDEN)


def test_progress_bars_of_other_libraries_stay_on_their_line():
    plain = stream("utf-8")
    Output(plain).write("\r 50%|█████     | a\rb")
    assert held(plain) == "\r 50%|█████     | a\\rb"


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("1", 80), ("-5", 80), ("wide", 80), ("²", 80), ("9" * 5000, 80)])
def test_an_invalid_width_is_replaced_by_the_usual_one(monkeypatch, columns, width):
    with monkeypatch.context() as patch:  # pytest itself reads them after the test
        patch.setenv("COLUMNS", columns)
        patch.setenv("LINES", columns)
        assert Screen(io.StringIO()).width == width


@pytest.mark.parametrize(("columns", "width"), [("20", 20), ("133", 133), ("999999999", 10_000)])
def test_a_valid_width_is_used(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert Screen(io.StringIO()).width == width


class Failing(io.StringIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def flush(self):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "ends", "code"),
    [
        (errno.EPIPE, None, None),
        (errno.EPIPE, 2, 2),
        (errno.ENOSPC, None, UNPRINTED),
        (errno.ENOSPC, 0, UNPRINTED),
        (errno.ENOSPC, 2, 2),
        (errno.EIO, None, UNPRINTED),
    ],
)
def test_a_failing_stream_does_not_stop_a_command(monkeypatch, capsys, number, ends, code):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    done, stopped = [], None
    try:
        with printing("kdexp-store"):
            print("lost", flush=True)
            Screen().print("lost")
            done.append("went on")
            if ends is not None:
                sys.exit(ends)
    except SystemExit as stop:
        stopped = stop.code
    assert done and stopped == code
    expected = f"kdexp-store: stdout can't be written ({os.strerror(number)})" if number != errno.EPIPE else ""
    assert capsys.readouterr().err.startswith(expected) and isinstance(sys.stdout, Failing)


def test_closed_streams_drop_everything(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with printing("kdexp"):
        print("nowhere")
        Screen().print("nowhere")
        print_error("kdexp", "nowhere")
    assert sys.stdout is None


@pytest.mark.slow
def test_each_problem_is_printed_on_one_line(here):
    code, shown = here(f"output_dir={EVIL}", "epochs=0", f"dataset.root='{EVIL}'", "dataset=image_folder")
    assert code == 2 and not any(piece in shown.err for piece in FORBIDDEN)
    assert all(line.startswith(("kdexp: ", "  ")) for line in shown.err.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_run_succeeds_on_a_stream_with_few_characters(here, tmp_path, monkeypatch, encoding):
    plain = stream(encoding)
    monkeypatch.setattr(sys, "stdout", plain)
    code, shown = here(*SHORT, "diagnosis=always")
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert code == 0, shown.err
    assert {"table.json", "metrics.csv", "status.json", "log.txt"} <= {path.name for path in folder.iterdir()}
    assert "9.5" in held(plain) and "9.5×" in (folder / "log.txt").read_text("utf-8")


@pytest.mark.slow
def test_the_files_are_there_before_the_table_is_printed(here, tmp_path, monkeypatch):
    seen = []
    real = run.draw_table

    def draw(*given):
        (folder,) = (tmp_path / "outputs" / "runs").iterdir()
        seen.append({path.name for path in folder.iterdir()})
        assert '"finished"' in (folder / "status.json").read_text("utf-8")
        return real(*given)

    monkeypatch.setattr(run, "draw_table", draw)
    assert here(*SHORT)[0] == 0
    assert {"table.csv", "table.json", "table.md", "metrics.csv", "status.json", "log.txt"} <= seen[0]


COMMANDS = {
    "kdexp": (cli.main, ["--help"]),
    "kdexp --cfg": (cli.main, ["--cfg", "job"]),
    "kdexp-store": (inventory.main, ["--help"]),
    "kdexp-report": (command.main, ["--help"]),
    "kdexp-export": (export.main, ["--help"]),
    "kdexp-predict": (predict.main, ["--help"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_prints_in_ascii(name, monkeypatch, tmp_path):
    main, words = COMMANDS[name]
    plain = stream("ascii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *words])
    monkeypatch.setattr(sys, "stdout", plain)
    with pytest.raises(SystemExit):
        main()
    assert len(held(plain).splitlines()) > 5


@pytest.mark.slow
def test_every_text_file_is_opened_with_its_encoding():
    """The default of a C locale is not UTF-8."""
    for path in Path(kdexp.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            given = [*call.args, *(word.value for word in call.keywords)]
            texts = [str(word.value) for word in given if isinstance(word, ast.Constant)]
            binary = any(set(text) <= set("rwxab+") and "b" in text for text in texts)
            of_os = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") in (
                "os",
                "Image",
                "chosen",
                "archive",
                "tracker",
                "found",
            )
            ours = name == "read_text" and isinstance(call.func, ast.Name)  # of kdexp.store.schema
            if name in ("open", "read_text", "write_text") and not (binary or of_os or ours):
                assert {"utf-8", "utf-8-sig"} & set(texts), f"{path}:{call.lineno}"
            if name in ("run", "Popen", "check_output") and any(word.arg == "text" for word in call.keywords):
                raise AssertionError(f"{path}:{call.lineno}")


@pytest.mark.slow
def test_a_run_under_a_c_locale_and_into_a_closed_pipe(tmp_path):
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "0", "TERM": "dumb", "NO_COLOR": "1"}
    words, pipe = [sys.executable, "-m", "kdexp", *SHORT], subprocess.PIPE
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert '"finished"' in (folder / "status.json").read_text("utf-8") and (folder / "table.json").is_file()
