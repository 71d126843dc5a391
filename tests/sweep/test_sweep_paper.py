"""A sweep in a paper: LaTeX tables, BibTeX, and PDF pictures."""

import csv
import io
import re
import shutil
import string
import subprocess

import pytest
from crafted_sweeps import CraftedSweep, right_first
from hypothesis import given
from hypothesis import strategies as st

from kdexp.commands import report as command
from kdexp.sweep import fold, read
from kdexp.sweep.bibliography import bibliography
from kdexp.sweep.latex import latex, stands_out
from kdexp.sweep.origins import Origins
from kdexp.sweep.remarks import remarks
from kdexp.sweep.table import columns_of
from kdexp.text.latex import escape


@pytest.fixture
def sweep(tmp_path):
    return CraftedSweep(tmp_path)


@pytest.fixture
def kdexp_report(monkeypatch, capsys):
    """Runs the command; returns its exit code, what it printed, and its errors."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["kdexp-report", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            command.main()
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


def grid(sweep, better=10, **changes):
    """Two temperatures and three seeds; the first temperature is better than the baseline by about so many points."""
    for temperature, gain in ((1.0, better), (2.0, 0)):
        for seed in range(3):
            given = {"baseline": right_first(800 + seed, 1000), "distilled": right_first(800 + 10 * gain + 2 * seed, 1000)}
            words = (f"distillation.temperature={temperature:g}", f"seed={seed}")
            given |= {"distillation__temperature": temperature, "validation": 0.9 - temperature / 10, "seed": seed}
            sweep.job(*words, **given, **changes)
    return sweep.close()


def tables(*folders):
    found = read(folders)
    return latex(fold(found), Origins(found))


def test_a_table_has_the_rules_of_booktabs_and_as_many_cells_in_every_row(sweep):
    made = tables(grid(sweep))
    body = made[made.index(r"\toprule") : made.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r" \\")]
    (layout,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", made)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(layout) - 1} and len(rows) == 5
    assert body.count(r"\midrule") == 3 and made.isascii() and "usepackage{booktabs}" in made
    assert made.count("{") - made.count(r"\{") == made.count("}") - made.count(r"\}")


def test_the_caption_says_seeds_protocol_selection_and_what_is_bold(sweep):
    made = tables(grid(sweep))
    (caption,) = re.findall(r"\\caption\{(.*)\}", made)
    for words in (
        r"mean $\pm$ standard deviation over 3 seeds (0, 1, 2)",
        "2 epochs, batch size 32, optimizer adam at learning rate 0.001",
        r"10 \% of the training images held out for validation",
        r"$\star$: highest mean validation accuracy of 2 configurations",
        "test images were not used for selection",
        "Bold: better than the baseline, and both that interval and the one over seeds alone are above 0.",
    ):
        assert words in caption


@pytest.mark.parametrize(("better", "bold"), [(10, True), (0, False), (-10, False)])
def test_only_what_is_better_beyond_its_interval_is_bold(sweep, better, bold):
    folder = grid(sweep, better)
    (table,) = fold(read([folder])).tables
    assert any(map(stands_out, table.rows)) == bold
    assert (r"\textbf" in tables(folder)) == bold


def test_one_seed_is_never_bold_and_the_caption_says_why(sweep):
    sweep.job("a", distilled=right_first(99), baseline=right_first(10))
    made = tables(sweep.close())
    assert r"\textbf" not in made and "one seed; therefore nothing is bold" in made and "1 seed (0)" in made


def test_a_shortened_sweep_says_so_in_its_caption(sweep):
    assert r"Shortened: limit\_batches=3 (at most 3 batches per epoch)." in tables(grid(sweep, limit_batches=3))


def test_names_are_escaped_in_a_table(sweep):
    config = {"distillation___target_": "a_b.C", "choices__distillation": r"50%_of#my$own\kd&more"}
    sweep.job("a", **config), sweep.job("b", **config, distillation__temperature=2.0)
    assert r"50\%\_of\#my\$own\textbackslash{}kd\&more" in tables(sweep.close())


@given(st.text(st.characters(codec="latin-1") | st.sampled_from("−±×√∞‖★☆Δ≤…–’→őřж漢α")))
def test_escaped_text_is_ascii_without_special_characters(text):
    escaped = escape(text)
    assert escaped.isascii()
    for command_ in (r"\\[#$%&_{}]", r"\\text\w+\{\}", r"\\ldots\{\}", r"\$[^$]*\$", r"\\[`'^~\"rvc]\{\w\}"):
        escaped = re.sub(command_, "", escaped)
    assert not set(escaped) & set('\\#$%&_{}~^<>|"')


def test_letters_and_digits_stay_as_they_are():
    plain = string.ascii_letters + string.digits + " .,:;!?()[]*+-=/@'`"
    assert escape(plain) == plain and escape("é ± −1 ×") == r"\'{e} $\pm$ $-$1 $\times$"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_the_tables_and_the_bibliography_compile(sweep, tmp_path):
    folder = grid(sweep)
    found = read([folder])
    every = escape('#$%&_{}~^\\<>|"−±×√∞·‖★☆ΔΣ≤≥²…–—’‘“”→éüçñÅšß漢字')
    (tmp_path / "table.tex").write_text(latex(fold(found), Origins(found)))
    (tmp_path / "page.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}\input{{table}} {every}\end{{document}}"
    )
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_what_to_cite_is_found_in_the_nodes_of_all_rows(sweep):
    peer = {"_target_": "kdexp.models.resnet_cifar.ResNet", "depth": 8}
    node = {"_target_": "kdexp.distillation.mutual.Mutual", "temperature": 1.0, "peer": peer}
    folder = sweep.job(
        "a",
        distillation=node,
        teacher___target_="kdexp.models.ensemble.Ensemble",
        teacher__members=[{"_target_": "kdexp.models.vgg_cifar.VGG"}],
        student___target_="mine.Net",
        choices__protocol="simkd",
    )
    assert folder.is_dir()
    found = read([sweep.close()])
    made = bibliography(fold(found), Origins(found))
    keys = set(re.findall(r"^@\w+\{(\w+),$", made, re.M))
    assert {"zhang2018deep", "he2016deep", "hinton2015distilling", "simonyan2015very", "chen2022knowledge"} <= keys
    assert {"alpaydin1998optical"} <= keys and "tian2020contrastive" in keys  # vgg_cifar is the CRD code's
    assert "% network mine.Net: not in kdexp's bibliography" in made and "% method none: nothing to cite" in made
    assert "% network resnet_cifar\n@inproceedings{he2016deep" in made


def test_only_the_requested_text_is_printed_and_nothing_is_written(sweep, kdexp_report):
    folder = grid(sweep)
    before = sorted(folder.rglob("*"))
    code, shown, errors = kdexp_report(folder, "--format", "latex")
    assert code == 0 and shown == tables(folder) and errors == ""
    code, shown, _ = kdexp_report(folder, "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(shown)))
    assert code == 0 and len(lines) == 4 and {line["role"] for line in lines} == {"teacher", "baseline", "distilled"}
    assert kdexp_report(folder, "--format", "md")[1].startswith("## digits")
    assert "@misc{hinton2015" not in kdexp_report(folder, "--bibtex")[1]  # crafted nodes name no class of kdexp
    assert sorted(folder.rglob("*")) == before


def test_a_single_run_has_all_of_it_too(sweep, kdexp_report):
    folder = sweep.job("a")
    sweep.close()
    assert r"\toprule" in kdexp_report(folder, "--format", "latex")[1]
    assert "alpaydin1998optical" in kdexp_report(folder, "--bibtex")[1]


def test_what_is_missing_is_named_on_stderr(sweep, kdexp_report):
    sweep.job("a"), sweep.job("b", state="interrupted", reason="Ctrl-C")
    code, shown, errors = kdexp_report(sweep.close(), "--format", "latex")
    assert code == command.INCOMPLETE and "1 of 2 jobs are finished" in errors and "Ctrl-C" not in shown


@pytest.mark.slow
def test_pictures_are_pdfs_of_two_widths_with_truetype_fonts(sweep, kdexp_report):
    folder = grid(sweep)
    code, _, errors = kdexp_report(folder, "--format", "csv", "--pictures", "pdf")
    assert code == 0 and "PDF files are in" in errors
    found = sorted((folder / "pictures").glob("*.pdf"))
    assert {file.stem.partition("_")[2] for file in found if file.stem.startswith("parameters")} == {
        "one_column",
        "two_columns",
    }
    for file in found:
        content = file.read_bytes()
        width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)[1]) / 72
        assert width == pytest.approx(3.3 if "one" in file.stem else 6.9)
        assert b"/CIDFontType2" in content and b"/Type3" not in content


def test_pictures_of_several_folders_need_a_folder(sweep, kdexp_report):
    folder = grid(sweep)
    code, _, errors = kdexp_report(folder, folder, "--pictures", "pdf")
    assert code == command.BAD_REQUEST and "--output FOLDER" in errors


def test_levels_are_the_heading_and_in_the_cells_only_if_they_differ(sweep):
    folder = grid(sweep)
    comparison = fold(read([folder]))
    (table,) = comparison.tables
    assert "95 % interval" in tables(folder).replace("\\", "")
    table.compared[0].difference.level = 0.975
    assert "97.5 % interval" in [column.heading for column in columns_of(table)]
    table.rows[-1].difference.level = 0.95
    (column,) = [column for column in columns_of(table) if column.heading == "interval"]
    assert "(97.5 %)" in column.cell(table.compared[0])


@pytest.mark.parametrize(("better", "words"), [(-3, "is 2.93 points below its baseline"), (10, None)])
def test_a_marked_row_below_its_baseline_is_told_so(sweep, better, words):
    (table,) = fold(read([grid(sweep, better)])).tables
    said = [remark for remark in remarks(table) if "although the best on validation images" in remark]
    assert bool(said) == bool(words) and all("★ kd temperature=1" in each for each in said)
