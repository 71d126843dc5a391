"""Training on few labels and images without: what methods share, from the store's key to a resumed training."""

import pytest
import torch
from each_method import FEW_LABELS, METHODS, averaged, chosen, class_of
from loops import assert_same, quiet_training

from kdexp.experiment.lockstep import train_together
from kdexp.experiment.obtain import obtain

SEMI = [method for method in METHODS if class_of(method).unlabelled]
TINY = ("~teacher", "dataset.crop_padding=1", "epochs=2", "limit_batches=3", "batch_size=8")


def test_there_are_such_methods():
    assert "fixmatch" in SEMI


@pytest.mark.slow
@pytest.mark.parametrize("method", SEMI)
def test_the_labels_of_unlabelled_images_reach_nothing(make_experiment, method):
    states = []
    for change in (False, True):
        experiment = make_experiment(*TINY, *chosen(method))
        (learner,), _ = prepared_without_teacher(experiment)
        split = experiment.data.train
        if change:
            known = torch.zeros(90, dtype=torch.bool)
            known[split._labelled] = True
            labels = split._whole.labels
            labels[~known] = labels[~known].roll(7)
        quiet_training([learner], split, None, None, epochs=2, batch_size=8, limit_batches=3)
        assert not learner.failure, learner.traceback
        states.append((learner.state_dict(), learner.history))
    (ours, history), (theirs, other) = states
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and history == other


def prepared_without_teacher(experiment):
    from kdexp.training.prepare import prepare

    split = experiment.data.train
    shared = (None, experiment.shape, experiment.precision, split.labels, split.unlabelled_images)
    return prepare([experiment.entry("distilled")], *shared)


@pytest.mark.slow
@pytest.mark.parametrize("method", SEMI)
def test_the_baseline_is_the_same_beside_it_and_alone(make_experiment, tmp_path, method):
    beside, _ = obtain(make_experiment(*TINY, *chosen(method), f"store={tmp_path}/beside"))
    (alone,) = obtain(make_experiment(*TINY, *FEW_LABELS, *averaged(method), "distillation=none", f"store={tmp_path}/alone"))
    assert beside.spec.key == alone.spec.key
    assert_same(beside, alone)


@pytest.mark.parametrize("method", SEMI)
def test_what_only_such_methods_read_is_not_in_the_baselines_key(make_experiment, method):
    words = (*TINY, *chosen(method))
    usual = make_experiment(*words)
    changed = [
        make_experiment(*words, *more)
        for more in (["distillation.unlabelled_ratio=3"], ["strong@dataset.strong_view=fixmatch"])
    ]
    assert all(other.spec("baseline").key == usual.spec("baseline").key for other in changed)
    ratio, policy = (other.spec("distilled").key != usual.spec("distilled").key for other in changed)
    assert ratio
    assert policy == any(view.startswith("strong") for view in class_of(method).unlabelled)
    for name in ("labels=31", "label_seed=1"):
        assert make_experiment(*words, f"dataset.{name}").spec("baseline").key != usual.spec("baseline").key


def test_without_labels_their_seed_changes_no_key(make_experiment):
    usual, other = (make_experiment(f"dataset.label_seed={seed}").spec("baseline") for seed in (0, 5))
    assert usual.key == other.key and not {"labels", "label_seed"} & usual.data.keys()


@pytest.mark.slow
def test_lockstep_trains_what_each_alone_would_be(make_experiment, tmp_path):
    """CE joins each loop; methods with different numbers of unlabelled images have loops of their own."""
    words = (*TINY, *chosen("fixmatch"))
    jobs = [("distillation.weight=1",), ("distillation.weight=0.5",), ("distillation.unlabelled_ratio=1",)]
    together = [make_experiment(*words, *job, f"store={tmp_path}/together") for job in jobs]
    for experiment in together[1:]:
        experiment.session = together[0].session
    train_together(together, None)
    found = {entry.spec.key: entry for experiment in together for entry in obtain(experiment)}
    sides = sorted(entry.stored.result["provenance"]["trained_side_by_side"] for entry in found.values())
    assert sides == [1, 3, 3, 3]
    for job in jobs:
        for entry in obtain(make_experiment(*words, *job, f"store={tmp_path}/alone")):
            assert_same(entry, found[entry.spec.key])
