"""A teacher's outputs: computed once where images repeat, equal to a live teacher's, bounded, and never stale."""

import io
import json
import shutil
from collections import Counter

import pytest
import torch
from crafted import spec_of
from experiments import COMPOSER, SHORT, compose_command, said
from loops import prepared
from rich.console import Console

from kdexp.commands.command import PlannedJob
from kdexp.commands.multirun import Lockstep, run_jobs
from kdexp.configuration.jobs import expand
from kdexp.data.split import Split
from kdexp.experiment.journal import lookup_words
from kdexp.experiment.lookahead import layers_read
from kdexp.experiment.obtain import obtain
from kdexp.experiment.session import Session
from kdexp.report.facts import measure
from kdexp.store.learners import LearnerStore
from kdexp.store.outputs import OutputStore, weights_digest, worth_storing
from kdexp.teacher import cache, lookup
from kdexp.teacher.cache import OutputCache
from kdexp.teacher.frozen import Teacher
from kdexp.teacher.lookup import LookupSource, choose_lookup
from kdexp.teacher.output_table import LOGITS, OutputTable

NETS = ("teacher=lightnn", "student=lightnn")
STAGED = ("teacher._target_=own_networks.StagedNet", "~teacher.hidden", "+teacher.width=8")
STAGED += ("student._target_=own_networks.StagedNet", "~student.hidden")
"""Networks that every method can compare."""

WHOLE = ("limit_batches=null",)
VIEWS = ("dataset.crop_padding=1", "dataset.flip=true")
IMAGES = 90
"""Training images of students on the digits."""


@pytest.fixture
def asked(monkeypatch):
    """The sizes of the batches that go through teachers."""
    sizes, real = [], Teacher.ask
    monkeypatch.setattr(Teacher, "ask", lambda self, image: sizes.append(len(image)) or real(self, image))
    return sizes


@pytest.fixture
def stores_all(monkeypatch):
    """Has all outputs stored, however quickly they were computed."""
    monkeypatch.setattr(lookup, "worth_storing", lambda _seconds, _size: True)


@pytest.fixture
def sweep(tmp_path):
    """Runs a multirun of short jobs with full epochs; returns their logs."""

    def run(*words, lockstep=None):
        overrides = expand([f"output_dir={tmp_path}", *SHORT, *WHOLE, *words])
        jobs = [PlannedJob(number, job, COMPOSER.compose(job)) for number, job in enumerate(overrides)]
        folder = run_jobs(jobs, ["-m", *words], lockstep, Console(file=io.StringIO(), width=200))
        states = [json.loads(path.read_text())["state"] for path in folder.glob("*/status.json")]
        assert states == ["finished"] * len(jobs)
        return "".join(path.read_text() for path in sorted(folder.rglob("log.txt")))

    return run


def use_table(teacher, split, **more):
    """Has the teacher answer from a new table, if there can be one; returns what was chosen."""
    chosen = choose_lookup(teacher, split, LookupSource("", OutputCache(), None, **more))
    teacher.use(chosen.table, chosen.extra_layers)
    return chosen


def pairs(split, seeds, epochs, images=None):
    """The distinct (image, view) pairs that these epochs show."""
    found = set()
    for seed in seeds:
        for epoch in epochs:
            shown = split.epoch(seed, epoch, images)
            views = torch.zeros_like(shown.rows) if shown.choices is None else shown.choices
            found |= set(zip(shown.rows.tolist(), views.tolist(), strict=True))
    return found


EVERY_WAY = [
    ("distillation=hint",),
    ("distillation=hint", "precision=bf16"),
    ("distillation=hint", "fast=true"),
    ("distillation=hint", "dataset.student_fraction=0.35", "batch_size=50"),
    ("distillation=kd", "batch_size=100"),
    ("distillation=kd", *VIEWS),
    ("distillation=kd", *VIEWS, "precision=bf16"),
    ("distillation=kd", *VIEWS, "dataset.student_fraction=0.35", "batch_size=50"),
    ("distillation=kd", "dataset.flip=true", "fast=true"),
]


@pytest.mark.slow
@pytest.mark.parametrize("words", EVERY_WAY, ids=" ".join)
def test_a_table_gives_bitwise_the_outputs_of_a_live_teacher(make_experiment, words):
    experiment = make_experiment(*NETS, *words)
    _, live = prepared(experiment, "distilled")
    _, teacher = prepared(experiment, "distilled")
    split, size = experiment.data.student_train, experiment.settings.batch_size
    use_table(teacher, split)
    for seed, epoch, limit in ((0, 5, None), (0, 6, None), (1, 0, 2), (0, 5, 1)):  # as a resumed run begins, and others
        images = split.epoch(seed, epoch, limit and limit * size)
        teacher.prepare_epoch(split, images)
        for batch in split.batches_of(images, size):
            theirs, ours = live(batch), teacher(batch)
            assert torch.equal(ours.logits, theirs.logits) and ours.features.keys() == theirs.features.keys()
            for name, values in theirs.features.items():
                assert torch.equal(ours.features[name], values)
                assert ours.features[name].stride() == values.stride(), "sums in another order would round otherwise"
    assert teacher.images_asked < live.images_asked


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), VIEWS], ids=["as they are", "views"])
def test_training_with_a_table_gives_the_weights_of_training_with_a_live_teacher(make_experiment, monkeypatch, words):
    words = (*NETS, *WHOLE, *words, "epochs=3")
    ours = obtain(make_experiment(*words))[2].stored.tensors("last")
    monkeypatch.setattr(cache, "OUTPUTS_SHARE", 0)
    experiment = make_experiment(*words, "force=true")
    theirs = obtain(experiment)[2].stored.tensors("last")
    assert "runs on every batch" in said(experiment)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), VIEWS], ids=["as they are", "views"])
def test_a_resumed_run_computes_only_outputs_of_the_remaining_epochs(make_experiment, monkeypatch, asked, words):
    words = (*WHOLE, *words, "epochs=4")
    whole = obtain(make_experiment(*words, "store=${output_dir}/whole"))[2].stored.tensors("last")
    experiment = make_experiment(*words)
    prepare, draw, drawn, seen = Teacher.prepare_epoch, Split.epoch, [], []

    def stops(self, split, images):
        if drawn[-1] == 2:
            raise KeyboardInterrupt
        prepare(self, split, images)

    def notes(self, split, images):
        seen.append(drawn[-1])
        prepare(self, split, images)

    monkeypatch.setattr(Split, "epoch", lambda self, seed, epoch, *rest: drawn.append(epoch) or draw(self, seed, epoch, *rest))
    monkeypatch.setattr(Teacher, "prepare_epoch", stops)
    with pytest.raises(KeyboardInterrupt):
        obtain(experiment)
    monkeypatch.setattr(Teacher, "prepare_epoch", notes)
    asked.clear()
    again = make_experiment(*words, "diagnosis=never")
    ours = obtain(again)[2].stored.tensors("last")
    split = again.data.student_train
    assert seen == [2, 3] and sum(asked) == len(pairs(split, [0], range(2, 4)))
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "hint", "at"])
def test_outputs_of_unaugmented_images_are_computed_once_for_all_epochs(make_experiment, asked, method):
    obtain(make_experiment(*STAGED, *WHOLE, f"distillation={method}", "epochs=5"))
    assert sum(asked) == IMAGES


@pytest.mark.slow
@pytest.mark.parametrize("lockstep", [None, Lockstep(None)])
def test_outputs_of_unaugmented_images_are_computed_once_for_all_jobs_of_a_sweep(sweep, asked, lockstep):
    log = sweep(*STAGED, "distillation=kd,hint,at", "distillation.temperature=1,4", "seed=0,1", lockstep=lockstep)
    assert sum(asked) == IMAGES
    assert log.count("computed once and cached for 90 images, since nothing is augmented (logits 3.6 kB, ") == 1
    if lockstep is None:
        assert log.count("cached by an earlier job for 90 images") == 11


@pytest.mark.slow
def test_several_teachers_of_a_sweep_run_once_each(sweep, asked):
    sweep("distillation.temperature=1,4", "teacher_seed=0,1", "controls=[self_teacher,random_teacher]")
    assert sum(asked) == 5 * IMAGES, "two teachers, trained and not, and the baseline"


@pytest.mark.slow
def test_a_pass_runs_only_if_a_layer_is_missing(make_experiment, asked):
    shared = Session()
    for method, expected in (("kd", IMAGES), ("at", 2 * IMAGES), ("kd", 2 * IMAGES), ("hint", 2 * IMAGES)):
        experiment = make_experiment(*STAGED, *WHOLE, f"distillation={method}", f"seed={len(asked)}")
        experiment.session = shared
        obtain(experiment)
        assert sum(asked) == expected, method


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["null", "1"])
def test_each_view_of_an_image_is_computed_once(make_experiment, asked, limit):
    experiment = make_experiment(*VIEWS, "epochs=40", f"limit_batches={limit}", "teacher_epochs=1")
    obtain(experiment)
    shown = pairs(experiment.data.student_train, [0], range(40), None if limit == "null" else 32)
    assert sum(asked) == len(shown) < 40 * (IMAGES if limit == "null" else 32) * 0.75


@pytest.mark.slow
@pytest.mark.parametrize("lockstep", [None, Lockstep(None)])
def test_each_view_of_an_image_is_computed_once_for_all_jobs_of_a_sweep(sweep, asked, make_experiment, lockstep):
    log = sweep(*VIEWS, "distillation.temperature=1,4", "distillation.alpha=0.1,0.9", "seed=0,1,2", lockstep=lockstep)
    assert sum(asked) == len(pairs(make_experiment(*VIEWS).data.student_train, [0, 1, 2], range(2)))
    assert "teacher's outputs: computed once per view, since each image has 18 views (logits 64.8 kB at most)" in log


@pytest.mark.slow
def test_short_epochs_compute_only_the_images_that_they_show(make_experiment, asked):
    experiment = make_experiment("limit_batches=1", "epochs=3")
    obtain(experiment)
    assert sum(asked) == len(pairs(experiment.data.student_train, [0], range(3), 32)) < IMAGES
    assert "computed once and cached for the images that are used, of 90, since nothing is augmented (logits 3.6 kB)" in said(
        experiment
    )


@pytest.mark.slow
@pytest.mark.parametrize("methods", ["hint", "hint,at"])
def test_features_of_augmented_images_are_computed_once_per_batch_for_all_learners(sweep, asked, methods):
    log = sweep(*STAGED, *VIEWS, f"distillation={methods}", "distillation.weight=1,2", lockstep=Lockstep(None))
    assert sum(asked) == 2 * IMAGES, "in each of two epochs, for two or four learners"
    assert "teacher: runs on every batch, since features of augmented images (" in log


@pytest.mark.slow
def test_the_teacher_runs_on_every_batch_if_images_never_repeat(make_experiment, monkeypatch):
    experiment = make_experiment(*WHOLE)
    _, teacher = prepared(experiment, "distilled")
    split = experiment.data.student_train
    monkeypatch.setattr(split.augmentation, "count", None)
    chosen = use_table(teacher, split)
    assert (chosen.kind, chosen.reason) == ("live", "augmented images never repeat")
    assert lookup_words(chosen, 90, full_epochs=True) == "teacher: runs on every batch, since augmented images never repeat"
    assert teacher.table is None and teacher.cached_bytes == 0


def test_a_complete_table_does_not_look_at_epochs(make_experiment):
    experiment = make_experiment(*WHOLE)
    _, teacher = prepared(experiment, "distilled")
    split = experiment.data.student_train
    use_table(teacher, split)
    teacher.prepare_all(split)
    teacher.prepare_epoch(split, None)
    assert teacher.images_asked == IMAGES and teacher.cached_bytes == IMAGES * 10 * 4


@pytest.mark.slow
def test_the_teacher_runs_on_every_batch_if_its_outputs_are_too_large(make_experiment, monkeypatch):
    monkeypatch.setattr(cache, "free_memory", lambda _device: 12_000)
    experiment = make_experiment(*NETS, *WHOLE, "distillation=hint")
    obtain(experiment)
    assert "teacher: runs on every batch, since its outputs for all images (logits 3.6 kB, features " in said(experiment)
    assert "are larger than the cache (3 kB)" in said(experiment)


def test_the_cache_is_bounded_and_drops_the_least_recently_used_table_first(monkeypatch):
    outputs, example, free = OutputCache(), torch.zeros(2, 10), 16_000
    held = lambda: sum(table.bytes for table in outputs._tables.values())  # noqa: E731
    monkeypatch.setattr(cache, "free_memory", lambda _device: free - held())
    for key in ("a", "b", "c", "a", "d"):
        table = outputs.use(key, lambda: OutputTable(25, 1, torch.device("cpu")))
        assert outputs.reserve(table, table.new_layers({LOGITS: example}))
        assert held() <= free * cache.OUTPUTS_SHARE
    assert list(outputs._tables) == ["b", "c", "a", "d"]
    table = outputs.use("e", lambda: OutputTable(50, 1, torch.device("cpu")))
    assert outputs.reserve(table, {LOGITS: example}) and list(outputs._tables) == ["a", "d", "e"]
    assert not outputs.reserve(table, {"a layer": torch.zeros(2, 11)})
    assert list(outputs._tables) == ["a", "d", "e"] and set(table.shown) == {LOGITS}, "nothing is dropped in vain"


@pytest.mark.slow
def test_layers_for_later_jobs_are_recorded_if_they_fit(make_experiment, monkeypatch):
    experiment = make_experiment(*NETS, *WHOLE)
    _, teacher = prepared(experiment, "distilled")
    split = experiment.data.student_train
    size = teacher.with_layers(["features"]).probe.features["features"][0].numel() * 4 * IMAGES
    for share, names in ((0.9, {LOGITS}), (1.1, {LOGITS, "features"})):
        monkeypatch.setattr(cache, "free_memory", lambda _device, share=share: share * (size + 3600) / cache.OUTPUTS_SHARE)
        use_table(teacher, split, later=["features"])
        assert set(teacher.table.shown) == names
        teacher.prepare_all(split)
        assert next(split.batches(32, seed=0, epoch=0)) and not teacher.capture.layers


@pytest.mark.slow
def test_the_layers_that_jobs_read_are_found_without_reading_data(monkeypatch):
    monkeypatch.setattr("kdexp.experiment.setup.load", None)
    words = ("teacher=lightnn", "student=mlp_small,lightnn", "distillation=kd,hint,none", "seed=0,1")
    configs = [compose_command(job) for job in expand(words)]
    (names,) = layers_read(configs).values()
    assert names == ["features"]


@pytest.mark.slow
def test_stored_outputs_are_read_by_later_runs(make_experiment, asked, stores_all):
    first = make_experiment(*NETS, *WHOLE, "distillation=hint")
    obtain(first)
    assert "teacher's outputs: stored for later runs" in said(first)
    asked.clear()
    later = make_experiment(*NETS, *WHOLE, "distillation=hint", "distillation.weight=3")
    ours = obtain(later)[2].stored.tensors("last")
    assert not asked and "teacher's outputs: read from the store for 90 images" in said(later)
    shutil.rmtree(outputs_of(later))
    computed = obtain(make_experiment(*NETS, *WHOLE, "distillation=hint", "distillation.weight=3", "force=true"))
    theirs = computed[2].stored.tensors("last")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and asked


def outputs_of(experiment):
    return experiment.store.root.parent / "outputs"


@pytest.mark.slow
def test_a_further_layer_is_stored_next_to_the_others(make_experiment, asked, stores_all):
    for number, (method, expected) in enumerate(
        [("kd", IMAGES), ("hint", 2 * IMAGES), ("hint", 2 * IMAGES), ("kd", 2 * IMAGES)]
    ):
        experiment = make_experiment(*NETS, *WHOLE, f"distillation={method}", f"seed={number}")
        obtain(experiment)
        assert sum(asked) == expected
    layers = [json.loads((path / "result.json").read_text())["spec"]["layer"] for path in outputs_of(experiment).iterdir()]
    assert sorted(layers) == ["", "features"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no result", "another's"])
def test_damaged_outputs_are_reported_and_computed_again(make_experiment, asked, stores_all, damage):
    experiment = make_experiment(*WHOLE)
    obtain(experiment)
    (place,) = outputs_of(experiment).iterdir()
    file = place / "outputs.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "no result":
        (place / "result.json").unlink()
    elif damage == "another's":
        spec = json.loads((place / "result.json").read_text())["spec"]
        identity = {name: value for name, value in spec.items() if name != "layer"}
        shutil.rmtree(place)
        OutputStore(experiment.settings.store, identity, {}, print).write("", torch.zeros(3, 10))
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"x")
    for seed, expected in ((1, IMAGES), (2, 0)):
        asked.clear()
        again = make_experiment(*WHOLE, f"seed={seed}", "diagnosis=never")
        obtain(again)
        told = said(again).replace("\n", " ")
        assert sum(asked) == expected and ("these outputs of the teacher will be computed again" in told) == (seed == 1)


@pytest.mark.slow
def test_a_draft_is_not_taken_for_outputs(make_experiment, asked, stores_all):
    experiment = make_experiment(*WHOLE)
    obtain(experiment)
    (place,) = outputs_of(experiment).iterdir()
    place.rename(place.with_name(f"{place.name}.draft-12345678"))
    asked.clear()
    obtain(make_experiment(*WHOLE, "seed=1"))
    assert sum(asked) == IMAGES


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [("precision=bf16",), ("batch_size=45",), ("dataset.split_seed=1",), ("dataset.student_fraction=0.2",)]
)
def test_outputs_computed_with_other_settings_are_not_read(make_experiment, asked, stores_all, change):
    obtain(make_experiment(*WHOLE))
    asked.clear()
    experiment = make_experiment(*WHOLE, *change)
    obtain(experiment)
    assert sum(asked) == len(experiment.data.student_train)


@pytest.mark.slow
def test_outputs_of_a_retrained_teacher_are_not_reused_even_under_the_same_key(make_experiment, asked, stores_all):
    experiment = make_experiment(*WHOLE)
    entry = obtain(experiment)[0]
    store, stored = LearnerStore(experiment.settings.store), entry.stored
    others = {name: value + 0.01 for name, value in stored.tensors("last").items()}
    kept_files = {name: stored.tensors(name) for name in ("best", "logits")}
    store.save(
        stored.key, {n: v for n, v in stored.result.items() if n not in ("files", "digest")}, {**kept_files, "last": others}, {}
    )
    asked.clear()
    obtain(make_experiment(*WHOLE, "seed=1"))
    assert sum(asked) == IMAGES


@pytest.mark.slow
def test_force_reads_no_stored_outputs(make_experiment, asked, stores_all):
    obtain(make_experiment(*WHOLE))
    asked.clear()
    obtain(make_experiment(*WHOLE, "force=true"))
    assert sum(asked) == IMAGES


@pytest.mark.slow
def test_outputs_that_are_quick_to_compute_are_not_stored(make_experiment):
    experiment = make_experiment(*WHOLE)
    obtain(experiment)
    assert not outputs_of(experiment).exists()
    assert not worth_storing(0.9, 1000) and worth_storing(4.0, 410_000_000) and not worth_storing(3.0, 410_000_000)


def test_two_processes_may_store_the_same_outputs(make_experiment, tmp_path):
    told = []
    identity = {"format": 1, "teacher": "0" * 16, "weights": "0" * 64, "data": spec_of()["data"]}
    about = {"model": "net", "dataset": "digits"}
    ours, theirs = (OutputStore(tmp_path, identity, about, told.append) for _ in range(2))
    values = torch.rand(3, 2)
    assert ours.write("", values) and theirs.write("", values) and not told
    assert torch.equal(theirs.read("", (3, 2)), values)
    assert len(list(ours.root.iterdir())) == 1


@pytest.mark.slow
def test_a_full_disk_does_not_stop_the_run(make_experiment, stores_all, monkeypatch):
    def full(*_words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdexp.store.outputs.write_entry", full)
    experiment = make_experiment(*WHOLE)
    assert all(entry.stored for entry in obtain(experiment))
    assert "can't store outputs of the teacher (No space left on device)" in said(experiment).replace("\n", " ")


@pytest.mark.slow
def test_the_digest_covers_every_weight_and_statistic(make_experiment):
    _, teacher = prepared(make_experiment("teacher._target_=own_networks.NormNet", "~teacher.hidden"), "distilled")
    digests = Counter([weights_digest(teacher.model)])
    for value in teacher.model.state_dict().values():
        value.add_(1)
        digests[weights_digest(teacher.model)] += 1
    assert set(digests.values()) == {1} and len(digests) > 5


@pytest.mark.slow
def test_a_diagnosis_uses_the_cached_outputs(make_experiment, asked):
    experiment = make_experiment(*WHOLE, "distillation=hint", *NETS)
    entries = obtain(experiment)
    measure(entries, experiment)
    assert sum(asked) == IMAGES
