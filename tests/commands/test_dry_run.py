"""A dry run reads no images, and tells what an earlier run noted of them; what it can't know it calls unknown."""

import re
import shutil

import pytest
from folders import picture, write_classes

from kdexp.commands.dry_run import UNKNOWN
from kdexp.data import decoding, fingerprint, load, source, summary
from kdexp.data.digits import Digits
from kdexp.data.split import Split
from kdexp.data.torchvision_sets import TorchvisionDataset

BRIEF = ("epochs=1", "teacher_epochs=1", "limit_batches=1", "device=cpu", "diagnosis=never")
OWN = ("dataset=image_folder", "dataset.root=own", "dataset.image_size=8", "dataset.in_channels=1", "teacher=mlp_wide")


@pytest.fixture
def dry(here, monkeypatch):
    """Makes a dry run, which fails if it reads, decodes, hashes or normalises images; returns what it printed."""

    def run(*words):
        with monkeypatch.context() as patched:
            for owner, name in (
                (Digits, "read"),
                (TorchvisionDataset, "content"),
                (decoding, "fill"),
                (decoding, "read_square"),
                (source, "decode_with_findings"),
                (load, "open_source"),
                (load, "summarise"),
                (fingerprint, "fingerprint"),
                (Split, "__init__"),
            ):
                patched.setattr(owner, name, lambda *_, name=name, **__: pytest.fail(f"calls {name}"))
            code, printed = here(*BRIEF, *words, "dry_run=true", columns=200)
        assert code == 0, printed.err
        return printed.out

    return run


@pytest.fixture
def own(tmp_path):
    for part, images in (("train", 6), ("test", 2)):
        write_classes(tmp_path / "own" / part, images=images)
    return tmp_path / "own"


def test_nothing_is_unknown_in_an_empty_store(dry, tmp_path):
    assert dry().count("to be trained") == 3
    jobs = dry("-m", "seed=0,1")
    assert "2 jobs, 5 distinct learners, 5 of them to be trained; no estimate of the time, since nothing similar" in jobs
    assert "unknown" not in jobs and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_run_notes_what_a_dry_run_needs(dry, here, tmp_path):
    assert here(*BRIEF)[0] == 0
    assert dry().count("stored 20") == 3
    assert "5 distinct learners, 2 of them to be trained: about 0." in dry("-m", "seed=0,1")
    shutil.rmtree(tmp_path / "outputs" / "store" / "summaries")
    shown = dry()
    assert len(re.findall(r"\d unknown", shown)) == 3
    assert (
        "unknown learners may already be stored: no run has noted these images in this store, or their files have changed since"
        in shown
    )
    assert dry("distillation.alpha=0.7").count("to be trained") == 1, "the store has none that could be this student"
    assert dry("force=true").count("to be trained") == 3
    jobs = dry("-m", "seed=0,1")
    assert "2 of them to be trained, 3 unknown; how long that takes is not known before the images are read" in jobs
    assert "teacher (unknown), baseline (unknown), distilled (unknown)" in jobs and jobs.count(UNKNOWN) == 1
    assert here(*BRIEF)[0] == 0, "which trains nothing, and notes the images again"
    assert dry().count("stored 20") == 3


@pytest.mark.slow
def test_other_measurements_are_unknown_until_a_run_makes_them(dry, here):
    assert here(*BRIEF)[0] == 0
    measured = ("dataset.mean=null", "dataset.std=null")
    assert "no run has noted the measured dataset.mean and dataset.std in this store" in dry(*measured)
    assert here(*BRIEF, *measured)[0] == 0
    for words in ((), ("dataset.flip=true",)):
        assert here(*BRIEF, *words)[0] == 0
        assert dry(*words).count("stored 20") == 3, "given values do not replace the measured ones"
    shown = dry(*measured)
    assert shown.count("stored 20") == 3 and "normalisation measured on 900 images: 'dataset.mean=[0.30" in shown


@pytest.mark.slow
def test_folders_are_recognised_by_their_files(dry, here, own):
    shown = dry(*OWN)
    assert shown.count("to be trained") == 3 and "own: " in shown and "measured on" not in shown
    assert here(*BRIEF, *OWN)[0] == 0
    shown = dry(*OWN)
    assert shown.count("stored 20") == 3 and "normalisation measured on" in shown
    assert "to be trained: about 0." in dry("-m", "seed=3,4", *OWN)
    picture(77).save(own / "train" / "cat" / "00.png")
    assert len(re.findall(r"\d unknown", dry(*OWN))) == 3


@pytest.mark.parametrize("damage", ["", "{}", '{"fingerprint": 3}'])
def test_a_damaged_note_is_no_note(dry, here, tmp_path, damage):
    assert here(*BRIEF)[0] == 0
    (file,) = (tmp_path / "outputs" / "store" / "summaries").iterdir()
    file.write_text(damage)
    assert len(re.findall(r"\d unknown", dry())) == 3


@pytest.mark.slow
def test_a_note_is_written_once_unless_something_changed(here, tmp_path, monkeypatch):
    written, real = [], summary.write_whole
    monkeypatch.setattr(summary, "write_whole", lambda path, text: written.append(path) or real(path, text))
    for words in ((), (), ("dataset.flip=true",)):
        assert here(*BRIEF, *words)[0] == 0
    assert len(written) == 1


def test_an_experiment_without_a_teacher_says_so(here, tmp_path):
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "alone.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /teacher: null\n  - override /distillation: mutual\n"
    )
    code, printed = here("--config-dir", str(tmp_path / "own"), "experiment=alone", "dry_run=true", columns=200)
    assert code == 0 and "teacher=null" in printed.out, printed.err
