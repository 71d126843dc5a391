"""The card of a trained network: what is known of it, and what its owner must fill in."""

import json

import pytest
from crafted import KEY, as_run, craft, rewrite, spec_of

from kdexp.commands.export import main
from kdexp.data.shape import Shape
from kdexp.store.spec import key_of


@pytest.fixture
def run(tmp_path):
    """A run folder with a taught student of two classes, one of them oddly named, and its teacher."""
    shape = Shape(num_classes=2, in_channels=3, image_size=8)
    teacher = craft(tmp_path / "store", shape=shape, seed=1)
    data = spec_of(shape=shape)["data"] | {"classes": ["cat|tom", "dog\n## Licence"], "resized_crop": [0.5, 1.0]}
    student = craft(tmp_path / "store", shape=shape, data=data, teacher=teacher.name)
    (tmp_path / "command.txt").write_text("kdexp dataset=image_folder seed=3\n")
    (tmp_path / "table.md").write_text("| role | test % |\n| --- | --: |\n| distilled | 50.00 |\n")
    return as_run(tmp_path, ("teacher", teacher.name), ("distilled", student.name))


def section(text, name):
    return text.partition(f"\n## {name}\n\n")[2].partition("\n\n## ")[0]


def test_the_card_has_what_is_known_of_the_network(run, capsys):
    main([str(run), "--card"])
    assert capsys.readouterr().out == f"{run / 'student.md'}: the card; 8 points are *to be filled in*\n"
    text = (run / "student.md").read_text()
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    wanted = ("Use", "Preprocessing", "Data", "Training", "Results", "Intended use", "Licence")
    assert headings == [f"## {name}" for name in wanted]
    assert f"kdexp.load({json.dumps(str(run))})" in section(text, "Use")
    assert r"Classes, in order: cat\|tom, dog\n## Licence." in section(text, "Use")
    assert "| resize | 9 |\n" in section(text, "Preprocessing") and "| crop | 8 |\n" in section(text, "Preprocessing")
    assert "| training images | 90 |" in section(text, "Data") and "| resized crop | [0.5, 1.0] |" in section(text, "Data")
    training = section(text, "Training")
    assert "| network | MLP(hidden=[5]) |" in training and "kdexp dataset=image_folder seed=3" in training
    assert "| teacher | net (CE), 1,000 parameters, test accuracy 50.00 % |" in training
    results = section(text, "Results")
    assert "(last epoch): accuracy 50.00 %, NLL 1.000, ECE 0.100." in results and "| distilled | 50.00 |" in results
    assert "- weights: *to be filled in*" in section(text, "Licence")


def test_a_card_next_to_a_file_shows_how_it_is_used(run, tmp_path):
    main([str(run), "--card", "--format", "safetensors", "--output", str(tmp_path / "net.safetensors")])
    text = (tmp_path / "net.md").read_text()
    assert f'kdexp.load("{tmp_path / "net.safetensors"}")(images)' in text and "; `kdexp.load` does it |" in text
    size = (tmp_path / "net.safetensors").stat().st_size / 1e6
    assert f"- size: {size:.3f} MB, " in section(text, "Use") and "- use:" not in text


def test_neither_file_replaces_another(run, capsys):
    (run / "student.md").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        main([str(run), "--card", "--format", "safetensors"])
    assert f"{run / 'student.md'} exists already; add --force" in capsys.readouterr().err
    assert (run / "student.md").read_text() == "mine" and not (run / "student.safetensors").exists()
    main([str(run), "--card", "--format", "safetensors", "--force"])
    assert (run / "student.md").read_text() != "mine" and (run / "student.safetensors").exists()


def test_a_learner_whose_teacher_is_gone_has_its_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main([str(craft(tmp_path / "store", teacher="ab" * 8)), "--card"])
    assert f"| teacher | {'ab' * 8} |" in (tmp_path / "student.md").read_text()


def test_a_network_that_can_not_classify_has_no_card(tmp_path, capsys):
    learner = craft(tmp_path / "store")
    rewrite(learner, test={"last": {"top1": None, "nll": None, "ece": None}})
    with pytest.raises(SystemExit, match="2"):
        main([str(learner), "--card", "--output", str(tmp_path / "a.md")])
    assert "can't classify: its classifier was not trained" in capsys.readouterr().err
    assert learner.name == KEY == key_of(spec_of()) and not (tmp_path / "a.md").exists()
