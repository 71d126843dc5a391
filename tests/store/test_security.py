"""Files of strangers: nothing that they name is executed, and no path leads out of their folder."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from crafted import KEY, MLP, NONE, as_run, craft, rewrite
from experiments import COMPOSER
from hydra.utils import instantiate
from safetensors.torch import save_file

import kdexp
import kdexp.models.mlp
from kdexp.commands.export import main
from kdexp.deployment.trust import check_model
from kdexp.errors import BadCheckpoint, BadResult, CorruptEntry
from kdexp.store.descriptions import FileName
from kdexp.store.schema import Key, problems_of
from kdexp.validation.validator import validate


def leave_mark(**given):
    """What no file of a stranger may make us call; Hydra itself refuses the best known such functions, but not this one."""
    Path("executed").touch()


MARK = {"_target_": "test_security.leave_mark"}
HIDDEN_TARGETS = [
    {**MLP, "hidden": MARK},
    {**MLP, "hidden": [1, [MARK]]},
    {**MLP, "hidden": "${oc.create:{_target_: test_security.leave_mark}}"},
    {**MLP, "_args_": [MARK]},
]
NO_NETWORKS = [
    MARK,
    {"_target_": "os.system", "command": "touch executed"},
    {"_target_": "subprocess.run", "args": ["touch", "executed"]},
    {"_target_": "builtins.exec", "_args_": ["open('executed', 'w')"]},
    {"_target_": "kdexp.commands.main.main"},
    {"_target_": "kdexp.models.mlp.MLP.__init__"},
    {"_target_": "torch.hub.load", "repo_or_dir": "stranger/net"},
    {"_target_": "torch.nn.init.ones_"},
    NONE["_target_"],
    {"hidden": [5]},
    {"_target_": 3},
    {"_target_": "no_such_module.Net"},
]


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path, monkeypatch):
    """Every test runs in a folder in which the mischief would leave a file."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "executed").exists()


OWN = ["own_networks", "own_methods", "test_security"]
"""Modules that the user vouches for."""


def refused(folder, kind=BadResult, **given):
    """The sentence of `kdexp.load`, which `kdexp-export` says too."""
    with pytest.raises(kind) as refusal:
        kdexp.load(folder, **given)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("node", [*NO_NETWORKS, *HIDDEN_TARGETS, {**MLP, "_partial_": True}])
@pytest.mark.parametrize("modules", [[], OWN])
def test_a_result_that_names_no_network_is_refused(tmp_path, node, modules):
    learner = craft(tmp_path, model=node, network=MLP)
    sentence = refused(learner, (BadResult, CorruptEntry), modules=modules)
    assert str(learner / "result.json") in sentence
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        assert node["_target_"] in sentence or MARK["_target_"] in sentence


@pytest.mark.parametrize("node", [*NO_NETWORKS, {**NONE, "temperature": MARK}, {**NONE, "alpha": "${oc.env:HOME}"}, MLP])
@pytest.mark.parametrize("modules", [[], OWN])
def test_a_result_that_names_no_method_is_refused(tmp_path, node, modules):
    refused(craft(tmp_path, method=node), (BadResult, CorruptEntry), modules=modules)


MSE = {**NONE, "_target_": "kdexp.distillation.mse_logits.MSELogits", "weight": 1.0}
SUM, MUTUAL = ({**NONE, "_target_": f"kdexp.distillation.{name}"} for name in ("sum.Sum", "mutual.Mutual"))
HIDDEN_PARTS = [
    *NO_NETWORKS[:-4],
    *HIDDEN_TARGETS,
    {"_target_": "no_such_module.Net"},
    {**MLP, "_partial_": True},
    {**MLP, "hidden": {"_target_": "kdexp.models.timm_nets.timm_net", "name": MLP}},
    {**MSE, "weight": MARK},
    {**MSE, "weight": "${oc.env:HOME}"},
    {**SUM, "methods": {"deeper": MARK}},
    {"_target_": "kdexp.models.ensemble.Ensemble", "members": [MLP, MARK]},
    {**MUTUAL, "peer": MARK},
    {"_target_": "own_methods.Remember", "weight": {**MSE}},
]
"""Parts that no method of ours may hold, within which a stranger may want something else to be made."""


@pytest.mark.parametrize("part", HIDDEN_PARTS)
def test_a_method_with_parts_that_are_no_network_or_method_is_refused(tmp_path, part):
    for node in ({**MUTUAL, "peer": part}, {**SUM, "methods": {"part": part}}, {**SUM, "methods": {"a": {"b": part}}}):
        refused(craft(tmp_path, method=node), modules=OWN)


@pytest.mark.parametrize(
    "node",
    [
        {**SUM, "methods": {"part": MSE}, "_args_": [MARK]},
        {**SUM, "methods": {"part": MSE}, "_partial_": True},
        {**SUM, "methods": {"_convert_": MSE}},
        {**SUM, "methods": {"${oc.create:{_target_: test_security.leave_mark}}": MSE}},
        {**SUM, "methods": [MARK]},
        {**SUM, "methods": {"part": [MSE]}},
        {**SUM, "methods": {"part": MSE, "other": "${methods.part}"}},
        {**SUM, "methods": {"_target_": "os.system", "command": "touch executed"}},
        {"_target_": "own_methods.Remember", "methods": {"part": MSE}},
    ],
)
def test_other_arguments_of_a_method_must_be_plain(tmp_path, node):
    refused(craft(tmp_path, method=node), modules=OWN)


@pytest.mark.parametrize(
    "node",
    [
        {**MUTUAL, "peer": MLP},
        {**MUTUAL, "peer": {"_target_": "own_networks.NormNet", "width": 3}},
        {**MUTUAL, "peer": {"_target_": "kdexp.models.ensemble.Ensemble", "members": [MLP, MLP]}},
        {**SUM, "methods": {"part": MSE, "other": {**SUM, "methods": {"deeper": MSE}}}},
    ],
)
def test_legitimate_parts_of_methods_are_accepted(tmp_path, node):
    assert kdexp.load(craft(tmp_path, method=node), modules=OWN)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


ENSEMBLE = {"_target_": "kdexp.models.ensemble.Ensemble", "combine": "logits", "temperature": 1.0}


@pytest.mark.parametrize("part", [*HIDDEN_PARTS, 3, [MLP]])
def test_an_ensemble_of_other_objects_than_networks_is_refused(tmp_path, part):
    refused(craft(tmp_path, model={**ENSEMBLE, "members": [MLP, part]}, network=MLP), modules=OWN)


def test_an_ensemble_of_networks_is_accepted(tmp_path):
    learner = craft(tmp_path, model={**ENSEMBLE, "members": [MLP, {"_target_": "own_networks.NormNet", "width": 3}]})
    assert kdexp.load(learner, modules=OWN)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("node", [*NO_NETWORKS, *HIDDEN_TARGETS])
def test_an_exported_file_that_names_no_network_is_refused(tmp_path, node):
    about = {"model": node, "mean": [0.5], "std": [0.5], "num_classes": 10, "in_channels": 1, "image_size": 8}
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(1)}, path, {name: json.dumps(value) for name, value in about.items()})
    assert str(path) in refused(path)


SIMKD = {
    **NONE,
    "_target_": "kdexp.distillation.simkd.SimKD",
    "factor": 2,
    "weight": 1.0,
    "student_layers": None,
    "teacher_layers": None,
}


@pytest.mark.parametrize("bad", [{"model": MARK}, {"method": MARK}])
def test_parts_of_a_deployed_teacher_are_checked_too(tmp_path, bad):
    teacher = craft(tmp_path, network=MLP, **bad)
    sentence = refused(craft(tmp_path, method=SIMKD, teacher=teacher.name))
    assert f"{teacher.name}/result.json is refused" in sentence


def test_a_teacher_that_is_not_deployed_may_be_missing(tmp_path):
    assert kdexp.load(craft(tmp_path, teacher="f" * 16))(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_command_says_it_in_one_sentence(tmp_path, capsys):
    learner = craft(tmp_path, model=MARK, network=MLP)
    with pytest.raises(SystemExit) as stop:
        main([str(learner), "--format", "safetensors"])
    assert stop.value.code == 2 and not (tmp_path / "student.safetensors").exists()
    assert capsys.readouterr().err == (
        f"kdexp-export: {learner / 'result.json'} is refused: it names 'test_security.leave_mark', which is no network "
        'or method of kdexp; if you trust the code of test_security, say so: kdexp.load(..., modules=["test_security"]), '
        "kdexp-export --module test_security\n"
    )


@pytest.mark.parametrize("node", [MARK, *HIDDEN_TARGETS])
def test_the_mischief_of_these_tests_is_real(tmp_path, node):
    with suppress(Exception):  # that the network does not want what was made of it comes too late
        instantiate(node, num_classes=1, in_channels=1, image_size=1)
    (tmp_path / "executed").unlink()


def test_networks_of_users_and_builders_of_families_are_accepted(tmp_path, monkeypatch):
    own = {"_target_": "own_networks.NormNet", "width": 3}
    assert kdexp.load(craft(tmp_path, model=own), modules=OWN)(torch.rand(2, 1, 8, 8)).shape == (2, 10)

    def build(*, num_classes, in_channels, image_size):
        return kdexp.models.mlp.MLP(hidden=[5], num_classes=num_classes, in_channels=in_channels, image_size=image_size)

    build.__module__, build.__qualname__ = "kdexp.models.mlp", "build"
    monkeypatch.setattr(kdexp.models.mlp, "build", build, raising=False)
    check_model({"_target_": "kdexp.models.mlp.build"}, tmp_path)
    check_model({"_target_": "kdexp.models.mlp.MLP", "hidden": [5], "checkpoint": "0" * 64}, tmp_path)


@pytest.mark.parametrize("key", [f"../{KEY}", "../../etc", "/etc", KEY.upper(), KEY + "0", KEY + "\n", "", None, 3])
def test_an_invalid_key_is_refused(tmp_path, key):
    craft(tmp_path / "store", key=KEY.upper())
    assert "table.json is damaged: rows.0.key=" in refused(as_run(tmp_path, ("distilled", key)))
    if key is not None:
        assert "spec.teacher=" in refused(craft(tmp_path, teacher=key, key=KEY), CorruptEntry)
    assert list(problems_of(key, Key)) and not list(problems_of(KEY, Key))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "..\\x", "C:x"])
def test_only_files_next_to_the_result_are_opened(tmp_path, name):
    learner = craft(tmp_path)
    rewrite(learner, files={name: "0" * 64})
    sentence = refused(learner, CorruptEntry)
    assert "result.json is damaged: files: has the key" in sentence and "must be the name of a file next to it" in sentence
    assert list(problems_of(name, FileName)) and not list(problems_of("last.safetensors", FileName))


def test_a_result_rewritten_with_its_digest_is_read(tmp_path):
    learner = craft(tmp_path)
    rewrite(learner, model="another name")
    assert kdexp.load(learner)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("epoch", ["../last", "logits", "best", "x"])
def test_the_best_epoch_must_exist(tmp_path, epoch):
    assert "it has: last" in refused(craft(tmp_path), epoch=epoch)


@pytest.mark.parametrize("changes", [{"spec": None}, {"spec": {}}, {"spec": {"data": {}, "teacher": None}}, {"files": {}}])
def test_a_result_with_missing_values_is_refused(tmp_path, changes):
    learner = craft(tmp_path)
    rewrite(learner, **changes)
    refused(learner, BadResult if "files" in changes else CorruptEntry)


@pytest.mark.parametrize("table", ["[]", "{", '{"store": "x"}', '{"store": 1, "rows": []}', '{"store": "", "rows": [1]}'])
def test_an_invalid_table_is_refused(tmp_path, table):
    (tmp_path / "table.json").write_text(table)
    assert f"{tmp_path / 'table.json'} is damaged: " in refused(tmp_path)


def test_weights_without_a_description_are_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(1)}, path)
    assert "does not describe its network" in refused(path)
    path.write_text("text")
    assert "is not a safetensors file, or a damaged one" in refused(path, BadCheckpoint)


class Mischief:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_a_command_with_a_hostile_checkpoint_is_refused_before_anything_runs(tmp_path):
    torch.save({"model": {"weight": Mischief()}}, tmp_path / "net.pt")
    words = ["teacher.checkpoint=net.pt", "student.checkpoint=net.pt", f"output_dir={tmp_path}/outputs"]
    sentence = "net.pt is refused: loading it would run code (posix.system); ask for a safetensors file or a state dict"
    found = [
        (problem.name, problem.sentence.replace("nt.system", "posix.system")) for problem in validate(COMPOSER.compose(words))
    ]
    assert found == [("teacher.checkpoint", sentence), ("student.checkpoint", sentence)]
    assert not (tmp_path / "outputs").exists()
