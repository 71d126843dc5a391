"""Full, read-only or damaged disks: one sentence, and no complete file is lost."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from crafted import result_of, spec_of
from experiments import COMPOSER, SHORT
from processes import screens, start
from rich.console import Console

from kdexp.commands import main as cli
from kdexp.commands.run import run
from kdexp.experiment import progress
from kdexp.experiment.obtain import obtain
from kdexp.files import write_whole
from kdexp.store.learners import LearnerStore
from kdexp.store.spec import key_of

KEY = key_of(spec_of())


@pytest.fixture
def tmpfs(tmp_path):
    """Mounts a file system of a given size; skips where that is not allowed."""
    mounted = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting needs rights")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def command(tmp_path, capsys):
    """Runs a short command in this process as the command line does; returns its exit code and all it printed."""

    def go(*words):
        before = sys.argv
        sys.argv = ["kdexp", *SHORT, *words]
        try:
            with pytest.raises(SystemExit) as stop:
                cli.main()
        finally:
            sys.argv = before
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return stop.value.code, (shown.out + shown.err).replace("\n", " ")

    return go


def stored(folder: Path) -> list[str]:
    return [path.name for path in (folder / "learner").iterdir() if path.is_dir()]


@pytest.mark.slow
def test_a_full_disk_is_reported_and_loses_nothing(tmpfs, tmp_path, command, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0)
    disk = tmpfs("3m")  # the teacher fits, what follows does not
    filler = disk / "filler"
    code, shown = command(f"output_dir={tmp_path}/out", f"store={disk}/store", "~teacher", "distillation=none")
    assert code == 0, shown
    filler.write_bytes(b"\0" * (os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 8192))
    code, shown = command(f"output_dir={tmp_path}/out", f"store={disk}/store")
    assert code == 3
    assert "No space left on device" in shown and "a killed run would start from the beginning" in shown
    assert "teacher failed: can't be stored in" in shown
    assert len(stored(disk / "store")) == 1 and not list((disk / "store" / "learner").glob("*.draft-*"))
    filler.unlink()
    code, shown = command(f"output_dir={tmp_path}/out", f"store={disk}/store")
    assert code == 0 and len(stored(disk / "store")) == 3


@pytest.mark.slow
def test_a_full_run_folder_loses_files_but_no_learner(tmpfs, tmp_path, command):
    disk = tmpfs("64k")
    code, shown = command(f"output_dir={disk}", f"store={tmp_path}/store")
    assert code == 3
    assert "lacks files: No space left on device; every learner is in the store" in shown
    assert len(stored(tmp_path / "store")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "lockstep"])
def test_a_sweep_whose_folder_is_full_shows_its_table_and_says_where_to_write_it(tmpfs, tmp_path, command, launcher):
    disk = tmpfs("40k")  # enough for the list of jobs and some of their files
    words = (f"output_dir={disk}", f"store={tmp_path}/store", "distillation.temperature=1,4", f"hydra/launcher={launcher}")
    code, shown = command("-m", *words)
    (sweep,) = (disk / "sweeps").iterdir()
    assert code == 3 and "kdexp-report:" not in shown
    assert f"kdexp: '{sweep}' can't be written: No space left on device; every finished learner is in the store" in shown
    assert f"kdexp-report {sweep} --output FOLDER writes the table elsewhere" in shown
    assert "2/2  distillation.temperature=4: failed: " in shown and len(stored(tmp_path / "store")) >= 3


@pytest.mark.slow
def test_a_write_limit_acts_as_a_full_disk(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    code = f"{limit}; from kdexp.commands.main import main; main()"
    words = [f"output_dir={tmp_path}", *SHORT, "num_threads=1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
    printed = (done.stdout + done.stderr).replace("\n", " ")
    assert done.returncode == 3 and "File too large" in printed and "Traceback" not in printed


@pytest.mark.slow
def test_a_read_only_store_is_read_and_reported(tmpfs, tmp_path, command):
    disk = tmpfs("16m")
    assert command(f"output_dir={tmp_path}/out", f"store={disk}/store")[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, shown = command(f"output_dir={tmp_path}/out", f"store={disk}/store")
    assert code == 0 and shown.count("force=true trains again") == 3
    runs = len(list((tmp_path / "out" / "runs").iterdir()))
    code, shown = command(f"output_dir={tmp_path}/out", f"store={disk}/store", "seed=1")
    assert code == 2
    assert f"store='{disk}/store' can't be written: Read-only file system; output_dir=FOLDER, in which" in shown
    assert len(list((tmp_path / "out" / "runs").iterdir())) == runs


@pytest.mark.slow
def test_an_output_folder_that_is_a_file(tmp_path, command):
    (tmp_path / "taken").write_text("mine")
    code, shown = command(f"output_dir={tmp_path}/taken", f"store={tmp_path}/store")
    assert code == 2 and "output_dir=" in shown and "is a file; name a folder" in shown
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.slow
def test_a_store_that_is_a_file(tmp_path, command):
    (tmp_path / "taken").write_text("mine")
    code, shown = command(f"output_dir={tmp_path}/out", f"store={tmp_path}/taken")
    assert code == 2 and "is a file; name a folder" in shown
    assert not (tmp_path / "out").exists()


def test_a_failing_write_keeps_the_old_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", "before")

    def full(self, content):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "before"


def test_a_learner_that_can_not_be_replaced_is_kept(tmp_path, monkeypatch):
    store = LearnerStore(tmp_path, say=print)
    weights = {"last": {}}
    store.save(KEY, result_of(spec_of(), trained_at="first"), weights, {})
    real = Path.rename

    def refuses(self, target):
        if Path(target).name == KEY and (self / "result.json").read_text().count('"second"'):
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(OSError, match="Input/output"):
        store.save(KEY, result_of(spec_of(), trained_at="second"), weights, {})
    assert store.find(KEY).result["trained_at"] == "first"
    assert len(list(store.root.iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_without_locks_it_works_and_leaves_no_leases(tmp_path, monkeypatch, number):
    import fcntl

    def no_locks(_file, _how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (tmp_path / "screen").open("w") as screen:
        assert run(COMPOSER.compose([f"output_dir={tmp_path}", *SHORT]), console=Console(file=screen, width=80))
    assert list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob("*.lease"))


@pytest.mark.slow
def test_a_result_with_changed_numbers_is_not_used(make_experiment):
    entry = obtain(make_experiment())[1]
    result = entry.stored.path / "result.json"
    told = json.loads(result.read_text())
    told["test"]["last"]["top1"] = 0.99
    result.write_text(json.dumps(told))
    again = obtain(make_experiment())[1]
    assert not again.reused and again.stored.result["test"]["last"]["top1"] == entry.stored.result["test"]["last"]["top1"]


@pytest.mark.alone
def test_two_processes_can_wait_for_one_and_print_for_whom(tmp_path):
    runs = [start(tmp_path, ["epochs=3", "teacher_epochs=60"]) for _ in range(3)]
    for process in runs:
        process.join(timeout=120)
    assert [process.exitcode for process in runs] == [0, 0, 0]
    assert "".join(screens(tmp_path)).count("which trains the teacher (") == 2
