"""Images in RAM or on disk: they give the same batches as on the device, in bounded memory, with workers that end."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from experiments import compose_command, said
from folders import BRIEF, CPU, GIVEN, SMALL, folder, picture, write_classes
from PIL import Image

from kdexp.data import fingerprint as summary
from kdexp.data import pixels as storage
from kdexp.data import placement, workers
from kdexp.data.digits import Digits
from kdexp.data.epoch import UnlabelledViews
from kdexp.data.load import load
from kdexp.data.placement import Placement, choose_memory
from kdexp.data.views import PLAIN, STRONG, STRONG2, WEAK
from kdexp.device import memory
from kdexp.errors import DataUnavailable, ImageLost
from kdexp.experiment.obtain import obtain

GB = 10**9
FIXMATCH = compose_command(["strong@dataset.strong=fixmatch"])["dataset"]["strong"]
VARIED = {
    "plain": {},
    "views": {"crop_padding": 2, "flip": True},
    "crops": {"resized_crop": [0.3, 1.0], "flip": True, "image_size": 7},
    "strong": {"strong": FIXMATCH, "crop_padding": 2, "crop_mode": "reflect", "flip": True},
    "few": {"student_fraction": 0.5, "flip": True, "in_channels": 1},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two classes with 11 training and 5 test images each."""
    own = tmp_path_factory.mktemp("own")
    write_classes(own / "train", images=11)
    write_classes(own / "test", images=5)
    return own


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Blocks of two batches of 4 images and pieces of 3 images, so that batches cross their borders."""
    monkeypatch.setattr(storage, "BLOCK_BYTES", 8 * 3 * 8 * 8)
    monkeypatch.setattr(workers, "CHUNK", 3)


@pytest.fixture
def kept():
    """Loads a data set into some memory; its workers end with the test."""
    made = []

    def keep(dataset, where, count=2, layout=torch.contiguous_format, device=CPU):
        made.append(load(dataset, device, layout, Placement(where, count)))
        return made[-1]

    yield keep
    for data in made:
        data.close()


def splits(data):
    return [split for split in (data.train, data.student_train, data.validation, data.test) if split is not None]


def assert_same_batches(one, other, size=4, epochs=(0, 1, 5), limit=None):
    for epoch in epochs:
        pairs = zip(*(each.batches(size, seed=3, epoch=epoch, limit=limit) for each in (one, other)), strict=True)
        for ours, theirs in pairs:
            for name in ("image", "label", "index", "view"):
                mine, yours = getattr(ours, name), getattr(theirs, name)
                assert mine is yours is None or torch.equal(mine, yours)
            assert ours.image.stride() == theirs.image.stride()


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("changed", VARIED.values(), ids=VARIED)
@pytest.mark.parametrize(("where", "count"), [("ram", 1), ("disk", 1), ("disk", 3)])
def test_batches_are_bitwise_those_of_resident_images(root, kept, where, count, changed, layout):
    dataset = folder(root, val_fraction=0.25, **changed)
    resident, other = kept(dataset, "device", layout=layout), kept(dataset, where, count, layout)
    assert (other.fingerprint, other.mean, other.std) == (resident.fingerprint, resident.mean, resident.std)
    for one, two in zip(splits(resident), splits(other), strict=True):
        assert one.pixels.resident and not two.pixels.resident
        assert torch.equal(one.labels, two.labels)
        assert_same_batches(one, two)
        assert_same_batches(one, two, size=3, epochs=[2], limit=2)
        assert_same_batches(one, two, size=99, epochs=[2])
        for size in (1, 4, 99):
            assert all(torch.equal(a, b) for a, b in zip(one.in_order(size), two.in_order(size), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("where", "count"), [("ram", 1), ("disk", 2)])
@pytest.mark.parametrize("policy", [FIXMATCH, {**FIXMATCH, "before_crop": True}], ids=["after crops", "before crops"])
def test_unlabelled_images_come_with_the_labelled_ones(root, kept, where, count, policy):
    dataset = folder(root, labels=6, strong_view=policy, crop_padding=2, flip=True)
    resident, other = kept(dataset, "device").train, kept(dataset, where, count).train
    assert len(other) == 6 and other.unlabelled_images == 22 and not other.pixels.resident
    views = (PLAIN, WEAK, STRONG, STRONG2)
    read = {"batch_size": 4, "seed": 3, "epoch": 1, "views": (STRONG,), "unlabelled": UnlabelledViews(views, 3)}
    for ours, theirs in zip(resident.batches(**read), other.batches(**read), strict=True):
        assert torch.equal(ours.image, theirs.image) and torch.equal(ours.seen(STRONG), theirs.seen(STRONG))
        assert torch.equal(ours.label, theirs.label) and torch.equal(ours.unlabelled.index, theirs.unlabelled.index)
        assert all(torch.equal(ours.unlabelled.views[view], theirs.unlabelled.views[view]) for view in views)


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_rows_are_read_in_any_order_and_number(root, kept, where):
    dataset = folder(root, crop_padding=1)
    resident, other = kept(dataset, "device").train, kept(dataset, where).train
    rows, views = torch.tensor([20, 3, 3, 0, 7]), torch.tensor([0, 8, 4, 2, 2])
    assert torch.equal(resident.images(rows, views), other.images(rows, views))
    assert torch.equal(resident.images(rows[:1], None), other.images(rows[:1], None))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ram", "disk"])
def test_interleaved_passes_over_several_splits_do_not_disturb_each_other(root, kept, where):
    dataset = folder(root, flip=True)
    resident, other = kept(dataset, "device"), kept(dataset, where)
    next(other.train.batches(2, seed=0, epoch=1))  # left in its middle
    for batch in other.train.batches(4, seed=0, epoch=0):
        assert torch.equal(torch.cat(list(other.test.in_order(3))), torch.cat(list(resident.test.in_order(3))))
        assert torch.equal(batch.image, resident.train.images(batch.index, batch.view))


def test_passes_leave_the_default_generator_alone(root, kept):
    data = kept(folder(root, flip=True), "disk")
    before = torch.get_rng_state()
    list(data.train.batches(4, seed=0, epoch=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_images_without_files_can_be_kept_in_ram(kept):
    given = {"val_fraction": 0.1, "split_seed": 0, "student_fraction": 0.3, "crop_padding": 1, "flip": False}
    dataset = Digits(mean=[0.3], std=[0.4], **given)
    for one, two in zip(splits(kept(dataset, "device")), splits(kept(dataset, "ram")), strict=True):
        assert_same_batches(one, two, size=64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changed", VARIED.values(), ids=VARIED)
@pytest.mark.parametrize("where", ["ram", "disk"])
def test_batches_on_a_gpu_are_bitwise_those_of_resident_images(root, kept, where, changed):
    dataset, cuda = folder(root, val_fraction=0.25, **changed), torch.device("cuda")
    for one, two in zip(splits(kept(dataset, "device", device=cuda)), splits(kept(dataset, where, device=cuda)), strict=True):
        for _ in range(20):
            assert_same_batches(one, two)


# Whole runs


def own(root, tmp_path, *words):
    return ("dataset=image_folder", f"dataset.root={root}", *SMALL, "dataset.flip=true", f"output_dir={tmp_path}", *words)


@pytest.fixture
def processes(monkeypatch):
    """The processes that were started."""
    started, start = [], multiprocessing.process.BaseProcess.start
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", lambda self: started.append(self) or start(self))
    return started


@pytest.mark.slow
def test_a_run_is_bitwise_the_same_everywhere_and_only_disk_needs_workers(root, tmp_path, make_experiment, processes):
    found = {}
    for where, count in (("device", 0), ("ram", 0), ("disk", 2)):
        words = (f"memory={where}", "workers=2", "diagnosis=always", "limit_batches=null", "batch_size=5")
        experiment = make_experiment(*own(root, tmp_path / where, *words))
        entries = obtain(experiment)
        experiment.session.close()
        assert sum(process.daemon for process in processes) == count, "one pool of workers for all splits and epochs"
        assert where == "disk" or not processes
        found[where] = (
            [entry.spec.key for entry in entries],
            [entry.stored.result["test"] for entry in entries],
            [entry.stored.result["history"] for entry in entries],
            [{name: value.tolist() for name, value in entry.stored.tensors("last").items()} for entry in entries],
        )
        assert ("streamed from disk by 2 worker processes (memory=disk)" in said(experiment)) == (where == "disk")
        assert ("kept in RAM and copied in blocks (memory=ram)" in said(experiment)) == (where == "ram")
    assert found["ram"] == found["device"]
    assert found["disk"] == found["device"]


@pytest.mark.slow
def test_the_table_and_the_diagnosis_of_a_stream_are_those_of_resident_images(root, tmp_path, here):
    def shown(where):
        words = own(root, tmp_path / where, *BRIEF, f"memory={where}", "workers=1", "diagnosis=always")
        code, printed = here(*words, columns=120)
        assert code == 0, printed.err
        lines = printed.out[printed.out.index("run folder") :].splitlines()[1:]
        # Without times, and without lines on where the teacher's outputs come from.
        of_lookup = ("teacher: runs on every batch", "teacher's outputs: computed", "teacher's logits")
        return [line.rstrip().rsplit(" ", 1)[0] for line in lines if not line.startswith(of_lookup)]

    assert shown("disk") == shown("device")
    assert not multiprocessing.active_children()


def test_a_failing_run_ends_its_workers(root, tmp_path, make_experiment, monkeypatch):
    from kdexp.commands import run

    monkeypatch.setattr(run, "obtain", lambda experiment: next(experiment.data.train.in_order(2)) / None)
    with pytest.raises(TypeError):
        run.run(make_experiment(*own(root, tmp_path, "memory=disk")).config)
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_an_interrupt_ends_the_run_and_its_workers(root, tmp_path):
    words = own(root, tmp_path, "memory=disk", "workers=2", "epochs=100000", "device=cpu", "distillation=none")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "kdexp", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stdout:
        if line.startswith("training"):
            break
    time.sleep(1)
    assert len(of_session(process.pid)) >= 4, "the run, the server that forks, two workers"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert errors == "interrupted; finished epochs are saved, run the same command to resume\n"
    deadline = time.monotonic() + 10
    while of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert of_session(process.pid) == []


def of_session(number):
    """Returns the running processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            found += [path.parent.name] if int(session) == number and state != "Z" else []
    return found


# Images that can't be read


@pytest.mark.slow
def test_unreadable_images_are_named_alike_on_the_device_and_on_disk(tmp_path, kept):
    own = tmp_path / "own"
    write_classes(own / "train")
    write_classes(own / "test", images=2)
    (own / "train" / "cat" / "00.png").write_bytes(b"")
    (own / "test" / "dog" / "01.png").write_text("no picture")
    refusals = []
    for where in ("device", "disk"):
        with pytest.raises(DataUnavailable, match="^2 images can't be read: .*repair or remove them$") as refusal:
            kept(folder(own), where)
        refusals.append(str(refusal.value))
    assert refusals[0] == refusals[1]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_an_image_lost_during_training_ends_the_run_with_a_sentence(tmp_path, here, monkeypatch):
    own = tmp_path / "own"
    write_classes(own / "train")
    write_classes(own / "test", images=2)
    words = ["dataset=image_folder", "dataset.root=own", *SMALL, *BRIEF, "memory=disk", "workers=1", "limit_batches=null"]
    assert here(*words)[0] == 0
    path = own / "train" / "cat" / "00.png"
    told = path.stat()
    path.write_bytes(b"x" * told.st_size)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    code, printed = here(*words, "force=true")
    assert code == 3
    assert printed.err.splitlines(keepends=True)[-1] == (
        "kdexp: own/train/cat/00.png (not an image that Pillow can read) can't be read any more; "
        "finished epochs are saved, run the same command to resume\n"
    )
    states = sorted(json.loads(file.read_text())["state"] for file in (tmp_path / "outputs" / "runs").glob("*/status.json"))
    assert states == ["failed", "finished"]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_dead_workers_are_reported_and_replaced(root, kept, monkeypatch):
    data = kept(folder(root), "disk", 1)
    batches = data.train.in_order(2)
    expected = next(batches)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(ImageLost, match="^the worker processes that decode images stopped: "):
        list(batches)
    assert torch.equal(next(data.train.in_order(2)), expected)


# The summary of images on disk


@pytest.fixture
def looks(monkeypatch):
    """One entry for every time that all images were read."""
    calls, real = [], summary._read_all
    monkeypatch.setattr(summary, "_read_all", lambda *words: calls.append(1) or real(*words))
    return calls


@pytest.mark.slow
def test_the_summary_is_cached_until_a_file_changes(tmp_path, looks):
    own = tmp_path / "own"
    write_classes(own / "train", images=8)
    write_classes(own / "test", images=2)

    def known(**changed):
        data = load(folder(own, **changed), CPU, placement=Placement("disk", 1, tmp_path / "kept"))
        data.close()
        return data.fingerprint, data.mean, data.std, len(looks)

    first = known()
    assert known() == first and first[3] == 1
    assert known(mean=[0.5] * 3)[1:] == ([0.5] * 3, first[2], 1)
    assert known(val_fraction=0.25)[3] == 2, "other images are measured"
    picture(77).save(own / "train" / "cat" / "00.png")
    changed = known()
    assert changed[0] != first[0] and changed[3] == 3
    assert changed[0] == load(folder(own), CPU).fingerprint
    for file in (tmp_path / "kept").iterdir():
        file.write_text("{")
    assert known() == (*changed[:3], 4)


@pytest.mark.slow
def test_a_dry_run_leaves_no_summary(root, tmp_path, here):
    code, printed = here(*own(root, tmp_path / "out", "memory=disk", "workers=1", "dry_run=true"), columns=200)
    assert code == 0 and "to be trained" in printed.out
    assert list(tmp_path.iterdir()) == []
    assert not multiprocessing.active_children()


# Where there is room


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "size", "unread", "ram", "gpu", "expected"),
    [
        (CPU, 3, True, 10, 0, "device"),  # 2 · 3 of 7.5
        (CPU, 4, True, 10, 0, "ram"),  # 2 · 4, but 4 of 7.5
        (CPU, 8, True, 10, 0, "disk"),
        (CPU, 8, False, 10, 0, "ram"),  # read already
        (CPU, 7, False, 10, 0, "device"),
        (CUDA, 4, True, 10, 10, "device"),
        (CUDA, 6, True, 10, 10, "ram"),
        (CUDA, 4, True, 5, 10, "disk"),
        (CUDA, 6, False, 1, 10, "ram"),
    ],
)
def test_images_are_stored_in_the_first_memory_with_room(monkeypatch, device, size, unread, ram, gpu, expected):
    monkeypatch.setattr(placement, "available_memory", lambda: ram * GB)
    monkeypatch.setattr(placement, "free_memory", lambda _: gpu * GB)
    found, why = choose_memory(size * GB, size * GB, unread, device, Placement())
    assert found == expected and (why == "") == (expected == "device")


def test_a_sentence_explains_why_images_are_not_on_the_device(monkeypatch):
    monkeypatch.setattr(placement, "available_memory", lambda: 10 * GB)
    monkeypatch.setattr(placement, "free_memory", lambda _: 4 * GB)
    assert choose_memory(3 * GB, 3 * GB, True, CUDA, Placement())[1] == (
        ", since they need 3 GB of memory on cuda, more than 50% of the 4 GB that are free"
    )
    assert choose_memory(20 * GB, 20 * GB, True, CUDA, Placement())[1] == (
        ", since they need 20 GB of memory, more than the 10 GB that are free"
    )


@pytest.mark.parametrize("where", ["device", "ram"])
def test_requested_memory_may_use_all_that_is_free_but_no_more(monkeypatch, where):
    monkeypatch.setattr(placement, "available_memory", lambda: 10 * GB)
    monkeypatch.setattr(placement, "free_memory", lambda _: 10 * GB)
    assert choose_memory(9 * GB, 9 * GB, True, CUDA, Placement(where))[0] == where
    with pytest.raises(DataUnavailable, match=rf"^memory={where}: the images need 11 GB of memory.*, more than the 10 GB"):
        choose_memory(11 * GB, 11 * GB, True, CUDA, Placement(where))


def test_a_folder_that_does_not_fit_is_streamed_automatically(root, kept, monkeypatch):
    monkeypatch.setattr(placement, "available_memory", lambda: 1000)
    data = kept(folder(root), "auto")
    why = "since they need 6.14 kB of memory, more than the 1 kB that are free"
    assert data.location == f"images: 32 streamed from disk by 2 worker processes, {why}"


def test_the_students_images_count_twice_on_the_device(root, kept, monkeypatch):
    size = 32 * 3 * 8 * 8
    monkeypatch.setattr(placement, "available_memory", lambda: int(2.3 * size / placement.RAM_SHARE))
    assert kept(folder(root), "auto").location == ""
    assert "RAM" in kept(folder(root, student_fraction=0.5), "auto").location


def test_control_groups_limit_what_is_free(tmp_path, monkeypatch):
    (tmp_path / "slice" / "job").mkdir(parents=True)
    (tmp_path / "own").write_text("4:memory:/x\n0::/slice/job\n")
    for group, most in (("slice/job", "max"), ("slice", "5000")):
        (tmp_path / group / "memory.max").write_text(f"{most}\n")
        (tmp_path / group / "memory.current").write_text("3000\n")
        (tmp_path / group / "memory.stat").write_text("anon 1\ninactive_file 500\n")
    assert list(memory._left_by_control_groups(tmp_path, tmp_path / "own")) == [2500]
    older = tmp_path / "memory"
    (older / "x").mkdir(parents=True)
    for group, most in (("x", 4000), (".", 2**63 - 4096)):
        (older / group / "memory.limit_in_bytes").write_text(f"{most}\n")
        (older / group / "memory.usage_in_bytes").write_text("3000\n")
        (older / group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200\n")
    left = list(memory._left_by_control_groups(tmp_path, tmp_path / "own"))
    assert left == [1200, 2**63 - 4096 - 2800, 2500], "the older version's groups, too"
    monkeypatch.setattr(memory, "_left_by_control_groups", lambda: [2500])
    assert memory.available_memory() == 2500


# Bounds


def test_two_blocks_at_most_are_on_the_device(root, kept, monkeypatch):
    alive, most, real = weakref.WeakSet(), [], storage._Block

    def watched(shape, device):
        block = real(shape, device)
        alive.add(block)
        most.append(sum(block.filled().numel() for block in alive))
        return block

    monkeypatch.setattr(storage, "_Block", watched)
    data = kept(folder(root), "ram")
    most.clear()
    assert len(list(data.train.in_order(4))) == 6
    assert len(most) == 2 and max(most) <= 2 * storage.BLOCK_BYTES
    assert not alive
    list(data.train.in_order(9))
    assert max(most) == 2 * 9 * 3 * 8 * 8, "a batch is never cut in two"


@pytest.mark.parametrize(("size", "expected"), [(8, 3), (1024, 2), (5000, 1)])
def test_pieces_have_a_limit(root, size, expected):
    assert workers.piece_size(folder(root, image_size=size).folders.train.files(3, size)) == expected


GROWTH = """
import json, multiprocessing, sys, torch
from kdexp.data.image_folder import ImageFolder
from kdexp.data.placement import Placement
from kdexp.data.load import load
from kdexp.device.heap import retain_freed_memory

def megabytes(name, process="self"):
    with open(f"/proc/{process}/status") as status:
        return int(next(line for line in status if line.startswith(name)).split()[1]) / 1000

def train(root, where):
    data = load(ImageFolder(root=root, **given), torch.device("cpu"), placement=Placement(where, 2))
    with retain_freed_memory():
        images = sum(len(batch.label) for batch in data.train.batches(16, seed=0, epoch=0))
    workers = max((megabytes("RssAnon", child.pid) for child in multiprocessing.active_children()), default=0)
    data.close()
    return images, megabytes("VmHWM"), workers

torch.set_num_threads(1)
few, many, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
_, before, by_few = train(few, "disk")
images, streamed, by_many = train(many, "disk")
_, read, _ = train(many, "ram")
print(images * 3 * given["image_size"] ** 2 / 1e6, streamed - before, by_many - by_few, read - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads in /proc what processes take")
@pytest.mark.exhaustive
def test_streaming_does_not_accumulate_memory(tmp_path):
    Image.new("RGB", (256, 256), "red").save(tmp_path / "one.bmp")
    for name, images in (("few", 40), ("many", 1300)):
        for part in ("train/a", "train/b", "test/a", "test/b"):
            (tmp_path / name / part).mkdir(parents=True)
            for number in range(images if part.startswith("train") else 1):
                (tmp_path / name / part / f"{number}.bmp").symlink_to(tmp_path / "one.bmp")
    given = json.dumps(GIVEN | {"image_size": 256, "mean": [0.5] * 3, "std": [0.5] * 3})
    process = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path / "few", tmp_path / "many", given],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.returncode == 0, process.stderr
    served, of_stream, of_worker, of_reading = map(float, process.stdout.split())
    assert served > 500
    assert of_stream < 120 and of_worker < 60
    assert of_reading > 400, "else this would notice nothing"
