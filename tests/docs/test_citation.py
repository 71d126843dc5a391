"""CITATION.cff and the bibliography agree with the package."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from shipped import CONF, options

import kdexp
from kdexp.report.references import bibtex, cited, references, with_eprint
from kdexp.version import __version__

ROOT = Path(__file__).parents[2]
PACKAGE = Path(kdexp.__file__).parent
PAPERS = references()["papers"]


def docstring(module):
    return ast.get_docstring(ast.parse((PACKAGE / module).read_text()))


def modules(group):
    """The modules of the classes that a group's options name."""
    nodes = [yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) for name in options(group)]
    return {node["_target_"].split(".")[2] for node in nodes if "_target_" in node}


def test_the_citation_file_is_of_this_version():
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= content.keys() and content["cff-version"] == "1.2.0"
    assert content["version"] == __version__ and content["license"] == "MIT" and content["type"] == "software"
    allowed = {"abstract", "keywords", "type", "version", "license", "cff-version", "message", "title", "authors"}
    assert content.keys() <= allowed and all(set(author) == {"name"} for author in content["authors"])


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", modules("distillation")),
        ("pretraining", modules("pretraining") - {"base"}),
        ("networks", modules("model") | {"ensemble"}),
        ("data", set(options("dataset"))),
        ("protocols", set(options("protocol"))),
    ],
)
def test_everything_has_its_papers_or_is_listed_as_having_none(kind, names):
    assert set(references()[kind]) == names
    assert {key for keys in references()[kind].values() for key in keys} <= PAPERS.keys()
    assert all(cited(kind, name) is not None for name in names) and cited(kind, "of my own") is None


def test_every_paper_is_cited_by_something():
    used = {key for kind, keys in references().items() if kind != "papers" for each in keys.values() for key in each}
    assert used == PAPERS.keys()


@pytest.mark.parametrize(("folder", "kind"), [("distillation", "methods"), ("models", "networks")])
def test_the_paper_that_a_docstring_names_first_is_cited(folder, kind):
    found = {name: re.findall(r"arXiv (\d{4}\.\d{4,5})", docstring(f"{folder}/{name}.py")) for name in references()[kind]}
    has_number = {name: any("eprint" in PAPERS[key] for key in cited(kind, name)) for name in found}
    named = {name: numbers[0] for name, numbers in found.items() if numbers and has_number[name]}
    assert len(named) > 7
    for name, number in named.items():
        assert number in {PAPERS[key].get("eprint") for key in cited(kind, name)}, name


def test_the_first_author_and_the_year_are_in_the_key():
    for key, paper in PAPERS.items():
        author = paper["author"] if isinstance(paper["author"], str) else paper["author"][0].split()[-1]
        assert key.startswith(f"{author.split()[0].lower()}{paper['year']}"), key


def test_published_numbers_have_papers_in_the_bibliography():
    sources = [yaml.safe_load(file.read_text()).get("published") for file in (CONF / "experiment").glob("*.yaml")]
    texts = {source["source"] for source in sources if source and "arXiv" in source["source"]}
    assert texts and all(with_eprint(text) for text in texts)


def test_entries_are_balanced_ascii():
    for key in PAPERS:
        entry = bibtex(key)
        assert entry.isascii() and entry.count("{") == entry.count("}") and entry.count("@") == 1
    assert r"L\'{e}on Bottou" in bibtex("lecun1998gradient")
    assert "author = {{TorchVision maintainers and contributors}}" in bibtex("torchvision2016")
