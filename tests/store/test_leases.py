"""Where files can't be locked, leases take the place of locks: files that their holders touch."""

import fcntl
import os
import time
from contextlib import ExitStack

import pytest
from lockless import lease_elsewhere, refuse

from kdexp.processes import Process
from kdexp.store import locks
from kdexp.store.locks import acquire, forget, has_locks, hold, holder, take_turns
from kdexp.store.numbered_locks import numbered_locks


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(locks, "LEASE", 0.4)
    monkeypatch.setattr(locks, "POLL", 0.02)


@pytest.fixture
def until():
    with ExitStack() as stack:
        yield stack


def test_whether_there_are_locks_is_found_out_by_trying(tmp_path, monkeypatch):
    assert has_locks(tmp_path / "later")
    (tmp_path / "later").mkdir()
    assert not has_locks(tmp_path / "later") and list((tmp_path / "later").iterdir()) == []
    assert not has_locks(tmp_path)
    monkeypatch.undo()
    assert not has_locks(tmp_path), "once per folder"
    (tmp_path / "other").mkdir()
    assert has_locks(tmp_path / "other")


def test_a_lease_is_one_process_s_and_leaves_nothing(tmp_path, until):
    path = tmp_path / "run.lock"
    with ExitStack() as held:
        hold(path, held)
        assert holder(path) == str(Process.this())
        with pytest.raises(OSError):
            hold(path, until)
        time.sleep(3 * locks.LEASE)
        assert holder(path) == str(Process.this()), "it is touched again and again"
    assert list(tmp_path.iterdir()) == []


def test_a_lease_of_another_machine_ends_once_it_is_not_touched(tmp_path, until):
    path, said = tmp_path / "key.lock", []
    lease_elsewhere(path)
    assert holder(path) == "process 7 on elsewhere"
    begin = time.monotonic()
    acquire(path, "the teacher", until, said.append)
    assert time.monotonic() - begin >= locks.LEASE and holder(path) == str(Process.this())
    assert said == ["waiting for process 7 on elsewhere, which trains the teacher", "the teacher is ready"]
    until.close()
    take_turns(path, until)


def test_the_clocks_of_machines_do_not_matter(tmp_path, monkeypatch):
    lease = lease_elsewhere(tmp_path / "key.lock")
    monkeypatch.setattr("time.time", lambda: 10.0**10)
    assert holder(tmp_path / "key.lock")
    past = lease.stat().st_mtime - 3 * locks.LEASE
    os.utime(lease, (past, past))
    assert holder(tmp_path / "key.lock") == ""
    forget(tmp_path / "key.lock")
    assert list(tmp_path.iterdir()) == []


def test_numbered_leases_exclude_each_other(tmp_path):
    one, other = (numbered_locks(tmp_path / "claims.lock") for _ in range(2))
    assert one.take(0) and one.take(0) and one.take(2) and not other.take(0) and other.take(1)
    one.release(0)
    assert other.take(0)
    one.close()
    other.close()
    assert list(tmp_path.iterdir()) == []
