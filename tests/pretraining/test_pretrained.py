"""A pretrained start: what is trained, on what, how often, and the row that starts from it."""

import pytest
import torch
from each_method import FEW_LABELS
from experiments import COMPOSER, said
from own_networks import NormNet
from processes import screens, start
from safetensors.torch import save_file

from kdexp.experiment.lockstep import train_together
from kdexp.experiment.obtain import obtain
from kdexp.report.remarks import remarks
from kdexp.store.best import reasons_to_keep_best
from kdexp.sweep.bibliography import bibliography
from kdexp.sweep.comparison import fold
from kdexp.sweep.origins import Origins
from kdexp.sweep.read import read
from kdexp.sweep.remarks import remarks as remarks_of
from kdexp.training.history import History
from kdexp.validation.validator import validate

NETS = ("student=convnet_small", "student.widths=[4,8]", "distillation=none", "batch_size=8", "epochs=1")
TINY = (
    *NETS,
    *("pretraining=simclr", "pretraining.epochs=2", "pretraining.batch_size=32", "pretraining.hidden=8", "pretraining.size=4"),
)
FEW = (*TINY, *FEW_LABELS, "~teacher")


def weights(entry_or_stored):
    tensors = getattr(entry_or_stored, "stored", entry_or_stored).tensors("last")
    return {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}


def pretrained_network(experiment):
    return experiment.store.require(experiment.spec("pretraining").key)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_the_row_starts_from_the_pretrained_network_with_a_classifier_of_its_own(make_experiment):
    experiment = make_experiment(*FEW)
    assert experiment.roles == ["baseline", "pretrained"]
    assert experiment.needed == ["baseline", "pretraining", "pretrained"]
    entries = obtain(experiment)
    baseline, pretrained = entries
    assert [entry.method for entry in entries] == ["CE", "CE, from SimCLR"]
    start_of = pretrained_network(experiment)
    assert pretrained.spec.start == start_of.key and baseline.spec.start is None
    assert start_of.result["test"]["last"]["top1"] is None, "it has no classifier"
    assert [set(row) for row in start_of.result["history"]] == [{"epoch", "loss", "nt_xent"}] * 2
    assert start_of.result["training_only_parameters"] == 8 * 8 + 8 + 8 * 4 + 4
    assert {*weights(pretrained)} - {*weights(start_of)} == {"classifier.weight", "classifier.bias"}
    assert "pretrained: the baseline, started from a training without labels, with a new classifier." in remarks(
        entries, experiment
    )


@pytest.mark.slow
def test_nothing_but_the_start_differs_from_the_baseline(make_experiment):
    (learner, other) = (prepared(make_experiment(*FEW), role) for role in ("baseline", "pretrained"))
    assert same(learner.state_dict(), other.state_dict()), "the classifier's initial weights, too, before the start is loaded"
    ours, theirs = (make_experiment(*FEW).spec(role).values() for role in ("baseline", "pretrained"))
    assert theirs.pop("start") and ours == theirs


def prepared(experiment, role):
    from kdexp.training.prepare import prepare

    split = experiment.split_of(experiment.entry(role))
    return prepare([experiment.entry(role)], None, experiment.shape, experiment.precision, split.labels)[0][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [FEW, (*TINY, "~teacher", "strong@dataset.strong_view=geometric")], ids=["few labels", "all labels"]
)
def test_no_label_reaches_the_pretraining(make_experiment, tmp_path, words):
    found = []
    for name in ("usual", "permuted"):
        experiment = make_experiment(*words, f"store={tmp_path}/{name}")
        split = experiment.split_of(experiment.entry("pretraining"))
        if name == "permuted":
            split.labels.copy_(split.labels.roll(7))
        obtain(experiment)
        found.append(pretrained_network(experiment))
    assert same(*(entry.tensors("last") for entry in found)) and found[0].result["history"] == found[1].result["history"]


@pytest.mark.slow
def test_all_images_are_read_whichever_have_labels(make_experiment):
    usual = make_experiment(*FEW)
    assert len(usual.split_of(usual.entry("pretraining"))) == 90
    for word in ("dataset.labels=20", "dataset.label_seed=3", "epochs=2", "batch_size=9", "averaging=ema", "optimizer=sgd"):
        other = make_experiment(*FEW, word)
        assert other.spec("pretraining").key == usual.spec("pretraining").key, word
        assert other.spec("pretrained").key != usual.spec("pretrained").key, word
    for word in ("seed=1", "pretraining.temperature=1", "pretraining.optimizer.lr=1", "strong@dataset.strong_view=fixmatch"):
        other = make_experiment(*FEW, word)
        assert other.spec("pretraining").key != usual.spec("pretraining").key, word
        assert other.spec("pretrained").key != usual.spec("pretrained").key, word
    assert make_experiment(*NETS, *FEW_LABELS, "~teacher").spec("baseline").key == usual.spec("baseline").key
    share = make_experiment(*TINY, "dataset.student_fraction=0.1", "~teacher", "strong@dataset.strong_view=geometric")
    assert len(share.split_of(share.entry("pretraining"))) == len(share.data.student_train) == 90


@pytest.mark.slow
def test_a_linear_probe_trains_the_classifier_alone(make_experiment):
    experiment = make_experiment(*FEW, "pretraining.frozen_backbone=true")
    baseline, probed = obtain(experiment)
    assert probed.method == "CE, linear probe, from SimCLR" and baseline.method == "CE"
    begun, ended = weights(pretrained_network(experiment)), weights(probed)
    assert all(torch.equal(value, ended[name]) for name, value in begun.items())
    assert experiment.spec("pretraining").key == make_experiment(*FEW).spec("pretraining").key


@pytest.mark.slow
def test_a_moving_average_begins_at_the_start(make_experiment):
    experiment = make_experiment(*FEW, "averaging=ema", "averaging.warm_up=false", "averaging.decay=0.999999")
    _, pretrained = obtain(experiment)
    begun, ended = weights(pretrained_network(experiment)), weights(pretrained)
    averaged = [name for name in begun if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert averaged and all(torch.allclose(begun[name], ended[name], atol=1e-4) for name in averaged)
    assert not all(torch.equal(begun[name], ended[name]) for name in averaged)


@pytest.mark.slow
def test_jobs_share_one_pretraining_and_lockstep_trains_what_each_alone_would_be(make_experiment, tmp_path):
    jobs = ["epochs=1", "optimizer.lr=0.01", "seed=1"]
    together = [make_experiment(*FEW, job, f"store={tmp_path}/together") for job in jobs]
    for experiment in together[1:]:
        experiment.session = together[0].session
    train_together(together, None)
    found = {entry.spec.key: entry for experiment in together for entry in obtain(experiment)}
    assert len({experiment.spec("pretraining").key for experiment in together}) == 2, "one for each seed"
    for job in jobs:
        alone = make_experiment(*FEW, job, f"store={tmp_path}/alone")
        for entry in obtain(alone):
            assert same(weights(entry), weights(found[entry.spec.key]))
        assert same(pretrained_network(alone).tensors("last"), pretrained_network(together[jobs.index(job)]).tensors("last"))
    assert said(alone).count("training pretraining") == 1


@pytest.mark.slow
def test_next_to_a_teacher_and_a_distilled_student(make_experiment):
    kd = ("distillation=kd", "strong@dataset.strong_view=geometric")
    entries = obtain(make_experiment(*TINY, *kd))
    assert [entry.role for entry in entries] == ["teacher", "baseline", "distilled", "pretrained"]
    assert all(entry.stored for entry in entries)
    without = make_experiment(*NETS, *kd)
    assert [without.spec(role).key for role in without.roles] == [entry.spec.key for entry in entries[:3]]


@pytest.mark.slow
def test_a_failed_pretraining_fails_its_row_alone(make_experiment):
    failing = ("optimizer@pretraining.optimizer=sgd", "pretraining.optimizer.lr=1e30")
    experiment = make_experiment(*FEW, *failing)
    baseline, pretrained = obtain(experiment)
    assert baseline.stored and pretrained.failure.startswith("pretraining failed: ")
    assert "try pretraining.optimizer.lr=" in pretrained.failure


@pytest.mark.slow
def test_what_a_kept_learner_starts_from_is_kept(make_experiment):
    experiment = make_experiment(*FEW)
    obtain(experiment)
    begun, ended = (experiment.spec(role).key for role in ("pretraining", "pretrained"))
    kept = reasons_to_keep_best({key: experiment.store.require(key).result for key in (begun, ended)})
    assert kept[begun] == f"{ended} depends on it"


@pytest.mark.slow
def test_killed_in_the_pretraining_the_same_command_ends_with_the_same_weights(tmp_path):
    words = [*FEW, "pretraining.epochs=3", "limit_batches=2"]
    found = []
    for name, kill in (("unbroken", None), ("killed", ("replace .*progress", 2))):
        folder = tmp_path / name
        folder.mkdir()
        if kill:
            start(folder, words, kill=kill).join()
        process = start(folder, words)
        process.join()
        assert process.exitcode == 0, screens(folder)
        stored = (folder / "outputs" / "store" / "learner").iterdir()
        found.append({path.name: (path / "last.safetensors").read_bytes() for path in stored if path.is_dir()})
    assert "pretraining: resuming after epoch" in "".join(screens(folder))
    assert len(found[0]) == 3 and found[0] == found[1]


@pytest.mark.slow
def test_a_single_image_in_the_last_batch_is_refused(make_experiment):
    from kdexp.errors import DataUnavailable

    experiment = make_experiment(*FEW, "pretraining.batch_size=89", "limit_batches=null")
    with pytest.raises(
        DataUnavailable, match=r"^pretraining: the last batch has a single image \(of 90\).* a single one has no"
    ):
        experiment.make_ready()


@pytest.mark.slow
def test_two_frozen_backbones_are_refused(tmp_path):
    words = ("student._target_=own_networks.NormNet", "~student.hidden", "student.frozen_backbone=true")
    save_file(NormNet(num_classes=10, in_channels=1, image_size=8).state_dict(), tmp_path / "start.safetensors")
    config = COMPOSER.compose(["pretraining=simclr", *FEW_LABELS, *words, f"student.checkpoint={tmp_path}/start.safetensors"])
    assert "student.frozen_backbone=True: pretraining trains the backbone" in "".join(map(str, validate(config)))


@pytest.mark.slow
def test_a_sweep_averages_over_seeds_and_has_columns_for_what_was_varied(here, tmp_path):
    varied = ("seed=0,1", "optimizer@pretraining.optimizer=adam,sgd", "diagnosis=never", "limit_batches=2")
    code, printed = here("-m", *FEW, *varied)
    assert code == 0, printed
    found = read([tmp_path / "outputs"])
    (table,) = fold(found).tables
    assert [(row.role, row.n, row.method) for row in table.rows] == [
        ("baseline", 2, "CE"),
        ("pretrained", 2, "CE, from SimCLR"),
        ("pretrained", 2, "CE, from SimCLR"),
    ]
    assert [row.settings.get("pretraining.optimizer") for row in table.rows] == [None, "adam", "sgd"]
    assert "pretraining.optimizer" in table.columns
    assert "chen2020simple" in bibliography(fold(found), Origins(found))
    assert "pretrained: the baseline, started from a training without labels, with a new classifier." in remarks_of(table)


@pytest.mark.slow
def test_a_dry_run_counts_the_pretraining(here):
    code, printed = here(*FEW, "dry_run=true", columns=200)
    assert code == 0, printed
    lines = [line.split() for line in printed.out.splitlines()]
    assert [line[0] for line in lines if line[-3:] == ["to", "be", "trained"]] == ["baseline", "pretraining", "pretrained"]
    assert next("SimCLR, T=0.5" in line for line in printed.out.splitlines() if line.lstrip().startswith("pretraining "))


def test_a_history_without_labels_has_no_accuracy():
    history = History(columns=["nt_xent"], reads_labels=False, trace=[torch.tensor([2.0]), torch.tensor([4.0])])
    assert history.record_epoch(history.close_epoch(None), validated=False) == ""
    assert history.epochs == [{"epoch": 1, "loss": 3.0, "nt_xent": 3.0}]
