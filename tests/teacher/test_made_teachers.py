"""Teachers made of other learners: ensembles, and distilled students that teach."""

import math
import re

import pytest
import torch
from experiments import said
from hypothesis import given
from hypothesis import strategies as st
from loss_bench import few, random

from kdexp.experiment.obtain import obtain
from kdexp.models.ensemble import Ensemble
from kdexp.training.entry import Entry

SMALL = {"_target_": "kdexp.models.mlp.MLP", "hidden": [4]}
WHOLE = ("dataset.student_fraction=1", "num_threads=1")
CHAIN = ("+teacher@teacher.teacher=mlp_wide", "+distillation@teacher.distillation=kd", "teacher=mlp_small", *WHOLE)
PAIR = ("teacher=ensemble", "teacher.members=[mlp_small,mlp_small]", *WHOLE)


def ensemble(combine="logits", temperature=1.0, count=3):
    shape = {"num_classes": 4, "in_channels": 1, "image_size": 8}
    torch.manual_seed(0)
    made = Ensemble(**shape, members=[SMALL] * count, combine=combine, temperature=temperature)
    return made.double(), random(5, 1, 8, 8)


def trained(experiment):
    """The roles that this experiment trained or made of others, in order."""
    return re.findall(r"^(?:training )?(\w[\w. ,]*): (?:\d+ epoch|the mean of)", said(experiment), re.MULTILINE)


@torch.no_grad()
def test_an_ensembles_logits_are_the_mean_of_its_members_logits():
    made, image = ensemble()
    alone = [member(image) for member in made.members]
    assert torch.allclose(made(image), ((alone[0] + alone[1] + alone[2]) / 3).float(), atol=1e-5)


@pytest.mark.slow
@few
@torch.no_grad()
@given(st.floats(0.5, 20))
def test_soft_targets_of_an_ensemble_are_the_mean_of_its_members_probabilities(temperature):
    made, image = ensemble("probabilities", temperature)
    wanted = sum((member(image) / temperature).softmax(1) for member in made.members) / 3
    assert torch.allclose((made(image) / temperature).softmax(1).double(), wanted, atol=1e-5)


@torch.no_grad()
def test_an_ensemble_of_one_member_equals_that_member():
    for combine in ("logits", "probabilities"):
        made, image = ensemble(combine, 3.0, count=1)
        alone = made.members[0](image)
        assert torch.allclose(made(image).log_softmax(1), alone.float().log_softmax(1), atol=1e-5)


def test_two_members_by_hand():
    made, _ = ensemble("probabilities", count=2)
    made.members = torch.nn.ModuleList([Says([math.log(3), 0.0]), Says([0.0, math.log(3)])])
    assert torch.allclose(made(torch.zeros(1)).softmax(1), torch.tensor([[0.5, 0.5]]))
    made.members = torch.nn.ModuleList([Says([math.log(3), 0.0]), Says([0.0, 0.0])])
    assert torch.allclose(made(torch.zeros(1)).softmax(1), torch.tensor([[0.625, 0.375]]))


class Says(torch.nn.Module):
    """A network with the same logits for every image."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor([logits])

    def forward(self, image):
        return self.logits


@pytest.mark.slow
def test_members_are_trained_one_by_one_with_their_own_seeds_and_reused(make_experiment):
    experiment = make_experiment(*PAIR)
    rows = {entry.role: entry for entry in obtain(experiment)}
    # The first member has the key of a plain teacher with that network and seed.
    assert trained(experiment) == ["teacher.members.0", "teacher.members.1", "teacher", "distilled"]
    members = [experiment.store.find(key) for key in rows["teacher"].spec.members]
    logits = [member.tensors("logits")["last"] for member in members]
    assert not torch.equal(*logits)
    assert torch.allclose(rows["teacher"].stored.tensors("logits")["last"], sum(logits) / 2, atol=1e-6)
    assert rows["teacher"].method == "mean of 2 mlp_small"
    assert members[0].key == make_experiment("teacher=mlp_small", *WHOLE).spec("teacher").key
    assert members[1].key == make_experiment("teacher=mlp_small", "teacher_seed=1", *WHOLE).spec("teacher").key
    again = make_experiment(*PAIR, "distillation.temperature=2")
    obtain(again)
    assert trained(again) == ["distilled"]


@pytest.mark.slow
def test_a_stored_ensemble_does_not_need_its_members(make_experiment):
    experiment = make_experiment(*PAIR)
    (teacher,) = obtain(experiment, ["teacher"])
    for key in teacher.spec.members:
        for file in (experiment.store.root / key).iterdir():
            file.unlink()
        (experiment.store.root / key).rmdir()
    again = make_experiment(*PAIR)
    assert obtain(again)[0].reused
    assert trained(again) == ["baseline and distilled"]


def test_an_ensemble_fails_if_a_member_fails(make_experiment):
    experiment = make_experiment(*PAIR, "teacher_optimizer.lr=1e30")
    entries: list[Entry] = obtain(experiment)
    assert [entry.role for entry in entries] == ["teacher"]
    assert entries[0].failure.startswith("teacher.members.0 failed: ")


def test_temperature_of_averaged_probabilities_can_follow_the_method(make_experiment):
    follow = ("teacher.combine=probabilities", "teacher.temperature=${distillation.temperature}")
    experiment = make_experiment(*PAIR, *follow, "distillation.temperature=7")
    assert experiment.config["teacher"]["temperature"] == 7
    assert experiment.spec("teacher").key != make_experiment(*PAIR, *follow).spec("teacher").key
    assert experiment.spec("teacher").members == make_experiment(*PAIR, *follow).spec("teacher").members


@pytest.mark.slow
def test_members_can_be_models_from_a_users_config_folder(here, tmp_path):
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text("_target_: kdexp.models.mlp.MLP\nhidden: [3]\n")
    words = ("--config-dir", str(tmp_path / "mine"), "teacher=ensemble", "teacher.members=[tiny,mlp_small]", "dry_run=true")
    code, printed = here(*words, columns=160)
    assert code == 0 and "mean of tiny, mlp_small" in printed.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["teacher.members=[mlp_wide,mlp_smal]"], "teacher.members.1='mlp_smal': no such network; did you mean mlp_small?"),
        (["teacher.members=[]"], "teacher.members=[]: must name networks"),
        (["teacher.combine=mean"], "teacher.combine='mean': must be one of logits, probabilities"),
        (["distillation=hint", "student=resnet8"], "Ensemble declares no landmarks, so its layers must be named"),
    ],
)
def test_impossible_ensembles_are_refused(refused, words, sentence):
    assert sentence in refused("teacher=ensemble", *words)


@pytest.mark.slow
def test_a_distilled_teacher_is_the_distilled_student_of_another_run(make_experiment):
    first = make_experiment("teacher=mlp_wide", "student=mlp_small", *WHOLE)
    rows = {entry.role: entry for entry in obtain(first)}
    second = make_experiment(*CHAIN)
    chained = {entry.role: entry for entry in obtain(second)}
    assert chained["teacher"].spec.key == rows["distilled"].spec.key
    assert chained["teacher"].reused
    assert chained["teacher"].method == "0.1 CE + 0.9 KD, T=4 from mlp_wide"
    assert trained(second) == ["distilled"]
    assert chained["distilled"].spec.teacher == rows["distilled"].spec.key


@pytest.mark.slow
def test_a_distilled_teacher_is_trained_after_its_own_teacher(make_experiment):
    experiment = make_experiment(*CHAIN)
    entries = obtain(experiment)
    assert trained(experiment) == ["teacher.teacher", "teacher", "baseline and distilled"]
    assert [entry.role for entry in entries] == ["teacher", "baseline", "distilled"]
    assert "teacher.teacher mlp_wide: " in said(experiment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["+teacher@teacher.teacher=mlp_wide"], "teacher.distillation: missing: the method that teacher learns by"),
        (
            ["+distillation@teacher.distillation=kd"],
            "teacher.teacher: missing: the network that teacher.distillation learns from",
        ),
        ([*CHAIN, "teacher.distillation.alpha=2"], "teacher.distillation.alpha=2: must be at least 0 and at most 1"),
        ([*CHAIN, "teacher.teacher.hidden=[0]"], "teacher.teacher.hidden=[0]: each entry must be at least 1"),
    ],
)
def test_impossible_chains_are_refused(refused, words, sentence):
    assert sentence in refused(*words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [PAIR, CHAIN])
def test_lockstep_gives_the_same_weights(make_experiment, here, tmp_path, words):
    alone = {entry.spec.key: entry.stored for entry in obtain(make_experiment(*words))}
    sweep = (
        "-m",
        *words,
        "seed=0,1",
        "hydra/launcher=lockstep",
        "epochs=2",
        "teacher_epochs=2",
        "limit_batches=3",
        "device=cpu",
    )
    code, printed = here(*sweep, f"output_dir={tmp_path}/company")
    assert code == 0, printed.err
    for key, stored in alone.items():
        theirs = make_experiment(f"store={tmp_path}/company/store").store.find(key)
        ours = stored.tensors("last")
        assert all(torch.equal(ours[name], value) for name, value in theirs.tensors("last").items())
