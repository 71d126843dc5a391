"""The remark on the size of a store at the end of a run or a sweep."""

from pathlib import Path

import pytest
from experiments import SHORT

from kdexp.commands import multirun, report
from kdexp.store import size
from kdexp.store.size import size_remark


@pytest.fixture
def store(tmp_path):
    for name, count in (("learner/a/last", 700), ("learner/b.progress", 200), ("outputs/c/x", 100)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * count)
    (tmp_path / "learner" / "loop").symlink_to(tmp_path)
    return str(tmp_path)


def test_a_store_tells_its_size_from_a_gigabyte_on(store, monkeypatch):
    assert size_remark(store) == "" and size.NOTABLE == 10**9
    monkeypatch.setattr(size, "NOTABLE", 1001 + (Path(store) / "learner" / "loop").lstat().st_size)
    assert size_remark(store) == "", "links are not followed"
    monkeypatch.setattr(size, "NOTABLE", 1000)
    remark = size_remark(store)
    assert remark.startswith(f"The store has 0.00 MB: kdexp-store list --store {store} shows")
    assert f"kdexp-store prune --store {store} --older-than 30d --keep-best" in remark


def test_a_huge_store_is_not_walked_to_its_end(store, monkeypatch):
    monkeypatch.setattr(size, "MOST_FILES", 1)
    monkeypatch.setattr(size, "NOTABLE", 1)
    assert "has more than" in size_remark(store)


def test_a_missing_store_has_no_size(tmp_path):
    assert size_remark(str(tmp_path / "nowhere")) == ""


@pytest.mark.slow
def test_a_run_and_a_sweep_tell_it(here, monkeypatch, tmp_path):
    monkeypatch.setattr(size, "NOTABLE", 1)
    monkeypatch.setattr(multirun, "run_jobs", lambda *_, **__: tmp_path)
    monkeypatch.setattr(report, "print_report", lambda *_: 0)
    for more in ([], ["-m", "seed=0,1"]):
        code, printed = here(*more, *SHORT, "epochs=1", "teacher=null", "distillation=none")
        assert code == 0 and printed.out.count("kdexp-store prune --older-than 30d --keep-best") == 1
