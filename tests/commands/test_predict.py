"""kdexp-predict: the classes of image files, as a table and as CSV, and what it refuses."""

import csv
import io
import os
import sys
import warnings

import pytest
import torch
from crafted import KEY, as_run, craft, spec_of
from folders import picture

import kdexp
from kdexp.commands import predict
from kdexp.data.decoding import read_square
from kdexp.data.shape import Shape

CLASSES = ["cat", "dog", "owl"]
SHAPE = Shape(num_classes=3, in_channels=3, image_size=8)


@pytest.fixture
def learner(tmp_path):
    """An untrained network for three named classes."""
    data = spec_of(shape=SHAPE)["data"] | {"classes": CLASSES}
    return craft(tmp_path / "store", shape=SHAPE, data=data)


@pytest.fixture
def photos(tmp_path):
    """A folder of five images of several sizes, one of them in a subfolder, and a file that is no image."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.jpg", "c.bmp", "d.png", "more/e.png"]):
        picture(number, 8 + 4 * number, 20 - number, "RGBA" if name == "d.png" else "RGB").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the command; returns its exit code, standard output and standard error."""

    def call(*words):
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as stop:
            predict.main([str(word) for word in words])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return stop.value.code, printed.out, printed.err

    return call


def lines(text):
    return list(csv.DictReader(io.StringIO(text)))


def expected(learner, paths):
    """Classes and probabilities by file, the best first."""
    student = kdexp.load(learner)
    with torch.no_grad():
        values = student(student.preprocess(paths)).softmax(1)
    for path, row in zip(paths, values.tolist(), strict=True):
        for rank, number in enumerate(sorted(range(len(CLASSES)), key=lambda number: -row[number]), 1):
            yield {"file": str(path), "rank": str(rank), "class": CLASSES[number], "probability": row[number]}


@pytest.mark.parametrize(("batch", "top"), [(64, 1), (2, 3), (5, 9)])
def test_every_file_gets_its_most_probable_classes(command, learner, photos, batch, top):
    code, printed, error = command(learner, photos, "--csv", "-", "--batch", batch, "--top", top)
    assert (code, error) == (0, "")
    paths = [photos / name for name in ("a.png", "b.jpg", "c.bmp", "d.png", "more/e.png")]
    wanted = [line for line in expected(learner, paths) if int(line["rank"]) <= top]
    found = lines(printed)
    assert [line | {"probability": 0} for line in found] == [line | {"probability": 0} for line in wanted]
    assert all(abs(float(a["probability"]) - b["probability"]) < 2e-6 for a, b in zip(found, wanted, strict=True))


def test_the_table_names_a_file_once(command, learner, photos):
    code, printed, _ = command(learner, photos / "a.png", photos / "b.jpg", photos / "a.png", "--top", 2)
    rows = [line.split() for line in printed.splitlines() if line.strip()]
    assert code == 0 and rows[0] == ["file", "class", "%"] and [len(row) for row in rows[2:]] == [3, 2, 3, 2]
    assert [row[0] for row in rows[2:] if len(row) == 3] == [str(photos / "a.png"), str(photos / "b.jpg")]


def test_classes_without_names_are_numbers(command, tmp_path, photos):
    code, printed, _ = command(craft(tmp_path / "other"), photos, "--csv", "-")
    assert code == 0 and {line["class"] for line in lines(printed)} <= {str(number) for number in range(10)}


def test_unreadable_images_are_named_and_the_others_go_on(command, learner, photos):
    (photos / "x.png").write_text("no image")
    (photos / "y.heic").touch()
    os.mkfifo(photos / "z.png")
    (photos / "loop").symlink_to(photos)
    code, printed, error = command(learner, photos, photos / "gone.png", "--csv", "-", "--batch", 2)
    assert code == 3 and len(lines(printed)) == 5
    assert error.splitlines() == [
        f"kdexp-predict: {photos / 'loop'} (a link to a folder above it) can't be read",
        f"kdexp-predict: {photos / 'y.heic'} can't be read: convert it to PNG or JPEG",
        f"kdexp-predict: {photos / 'x.png'} can't be read: not an image that Pillow can read",
        f"kdexp-predict: {photos / 'z.png'} can't be read: a FIFO, not a file",
        f"kdexp-predict: {photos / 'gone.png'} can't be read: the file does not exist",
    ]


def test_a_folder_of_unreadable_images_has_an_empty_table(command, learner, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("no image")
    code, printed, error = command(learner, tmp_path / "bad", "--csv", "-")
    assert (code, printed) == (3, "file,rank,class,probability\n") and "x.png can't be read" in error


def test_the_csv_file_is_written_once(command, learner, photos, tmp_path):
    words = (learner, photos, "--csv", tmp_path / "out.csv")
    assert command(*words) == (0, f"{tmp_path / 'out.csv'}: 5 images\n", "")
    before = (tmp_path / "out.csv").read_text()
    code, _, error = command(*words)
    assert code == 2 and "out.csv exists already; add --force to replace it, or choose another file with --csv FILE" in error
    assert command(*words, "--force", "--top", 2)[0] == 0 and len(lines((tmp_path / "out.csv").read_text())) == 10
    assert before == command(learner, photos, "--csv", "-")[1]


def test_names_that_are_not_utf8_reach_the_csv_file(command, learner, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)  # noqa: PTH102
    with open(folder + b"/\xff.png", "wb") as file:
        picture(0).save(file, "PNG")
    assert command(learner, tmp_path / "odd", "--csv", tmp_path / "out.csv")[0] == 0
    assert b"odd/\xff.png,1," in (tmp_path / "out.csv").read_bytes()


def test_roles_epochs_and_files_are_chosen_as_for_export(command, learner, photos, tmp_path):
    craft(tmp_path / "store")
    folder = as_run(tmp_path, ("teacher", KEY), ("baseline", KEY))
    code, _, error = command(folder, photos)
    assert code == 2 and error.endswith("has no finished 'distilled'; it has: teacher, baseline; add --role baseline\n")
    assert command(folder, photos, "--role", "baseline")[0] == 0
    assert command(folder, photos, "--role", "baseline", "--epoch", "best")[0] == 2
    (tmp_path / "net.safetensors").touch()
    code, _, error = command(tmp_path / "net.safetensors", photos, "--role", "teacher")
    assert (code, error) == (
        2,
        f"kdexp-predict: {tmp_path / 'net.safetensors'} holds a single network: leave out --role and --epoch\n",
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["RUN"], "the following arguments are required: IMAGE (kdexp-predict --help)"),
        (["RUN", "nowhere", "nothing"], "no such file or folder: nowhere, nothing"),
        (["RUN", "store"], "no image in store: looked for .bmp .gif .jfif .jpe .jpeg .jpg .pbm"),
        (["nowhere", "photos"], "no folder nowhere; RUN is a folder in outputs/runs/"),
        (["store", "photos"], "store is neither a finished run (table.json) nor a stored learner (result.json)"),
        (["photos/a.png", "photos"], "photos/a.png is not a safetensors file, or a damaged one"),
        (["RUN", "photos", "--top", "0"], "argument --top: '0' is not a whole number above 0"),
        (["RUN", "photos", "--batch", "many"], "argument --batch: 'many' is not a whole number above 0"),
        (["RUN", "photos", "--device", "tpu"], "argument --device: 'tpu' must be one of auto, cpu, cuda, mps or cuda:NUMBER"),
        (["RUN", "photos", "--csv", "no/a.csv"], "the folder no does not exist; choose another one with --csv FILE"),
        (["RUN", "photos", "--csv", "photos"], "photos is a folder; choose a file with --csv FILE"),
        (["RUN", "photos", "--csv", "a" * 300], "File name too long"),
        (["RUN", "b" * 300], f"no such file or folder: {'b' * 300}"),
        (["RUN", "~nobody_at_all/photos"], "~nobody_at_all/photos: there is no user 'nobody_at_all' on this machine"),
        (["~nobody_at_all/run", "photos"], "there is no user 'nobody_at_all' on this machine"),
        (["RUN", "photos", "--tops", "3"], "unrecognized arguments: --tops 3"),
    ],
)
def test_refusals_are_one_sentence(command, learner, photos, monkeypatch, words, sentence):
    monkeypatch.chdir(photos.parent)
    code, printed, error = command(*(learner if word == "RUN" else word for word in words))
    assert (code, printed, error.count("\n")) == (2, "", 1) and error.startswith("kdexp-predict: ") and sentence in error


def test_a_device_that_is_not_here_is_refused(command, learner, photos, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        code, _, error = command(learner, photos, "--device", name)
        assert code == 2 and error.startswith(f"kdexp-predict: --device {name}: this machine has no such device")
        assert "here: cpu" in error and error.endswith("(--device auto picks)\n")


def test_an_interrupt_writes_nothing(command, learner, photos, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdexp.deployment.classify.best_classes", interrupted)
    code, printed, error = command(learner, photos, "--csv", tmp_path / "a.csv")
    assert (code, printed, error) == (130, "", "kdexp-predict: interrupted; nothing was written\n")
    assert not (tmp_path / "a.csv").exists()


def test_too_little_memory_suggests_smaller_batches(command, learner, photos, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("not enough memory: you tried to allocate 1 byte")

    monkeypatch.setattr("kdexp.deployment.classify.best_classes", full)
    code, _, error = command(learner, photos)
    assert code == 2 and error.endswith("you tried to allocate 1 byte; a smaller --batch takes less memory\n")


def test_images_that_are_damaged_but_readable_are_a_warning(command, learner, photos, monkeypatch):
    def read(path, channels, size):
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return read_square(path, channels, size)

    monkeypatch.setattr("kdexp.data.decoding.read_square", read)
    code, printed, error = command(learner, photos / "a.png", "--csv", "-")
    assert code == 0 and len(lines(printed)) == 1
    warning = f"1 image was read, but may be damaged: {photos / 'a.png'} (Corrupt EXIF data)"
    assert error == f"kdexp-predict: warning: {warning}\n"


def test_a_terminal_shows_progress(learner, photos, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    with pytest.raises(SystemExit):
        predict.main([str(learner), str(photos)])
    assert "classifying" in terminal.getvalue() and "a.png" in terminal.getvalue()
