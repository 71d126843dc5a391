"""Files of strangers: whatever they name, none of it is executed, and no path leads out of their folder."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from crafted import KEY, MLP, NONE, as_run, craft, rewrite
from hydra.utils import instantiate
from safetensors.torch import save_file

import kdexp
import kdexp.models.mlp
from kdexp.checkpoint.read import BadCheckpoint
from kdexp.config import compose_command
from kdexp.export import main
from kdexp.foreign import BadResult, check_model, is_key
from kdexp.stored import CorruptEntry, is_plain_name
from kdexp.validation import validate


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
    {"_target_": "kdexp.cli.main"},
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


def refused(folder, kind=BadResult, **given):
    """The sentence of `kdexp.load`, which `kdexp-export` says too."""
    with pytest.raises(kind) as refusal:
        kdexp.load(folder, **given)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("node", [*NO_NETWORKS, *HIDDEN_TARGETS, {**MLP, "_partial_": True}])
def test_a_result_that_names_no_network_is_refused(tmp_path, node):
    learner = craft(tmp_path, model=node, network=MLP)
    sentence = refused(learner)
    assert str(learner / "result.json") in sentence
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        assert node["_target_"] in sentence or MARK["_target_"] in sentence


@pytest.mark.parametrize("node", [*NO_NETWORKS, {**NONE, "temperature": MARK}, {**NONE, "alpha": "${oc.env:HOME}"}, MLP])
def test_a_result_that_names_no_method_is_refused(tmp_path, node):
    refused(craft(tmp_path, method=node))


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
def test_a_method_that_holds_what_is_no_network_and_no_method_is_refused(tmp_path, part):
    for node in ({**MUTUAL, "peer": part}, {**SUM, "methods": {"part": part}}, {**SUM, "methods": {"a": {"b": part}}}):
        refused(craft(tmp_path, method=node))


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
def test_around_the_parts_of_a_method_everything_is_plain(tmp_path, node):
    refused(craft(tmp_path, method=node))


@pytest.mark.parametrize(
    "node",
    [
        {**MUTUAL, "peer": MLP},
        {**MUTUAL, "peer": {"_target_": "own_networks.NormNet", "width": 3}},
        {**MUTUAL, "peer": {"_target_": "kdexp.models.ensemble.Ensemble", "members": [MLP, MLP]}},
        {**SUM, "methods": {"part": MSE, "other": {**SUM, "methods": {"deeper": MSE}}}},
    ],
)
def test_methods_of_networks_and_of_methods_are_none_of_that(tmp_path, node):
    assert kdexp.load(craft(tmp_path, method=node))(torch.rand(2, 1, 8, 8)).shape == (2, 10)


ENSEMBLE = {"_target_": "kdexp.models.ensemble.Ensemble", "combine": "logits", "temperature": 1.0}


@pytest.mark.parametrize("part", [*HIDDEN_PARTS, 3, [MLP]])
def test_an_ensemble_of_what_is_no_network_is_refused(tmp_path, part):
    refused(craft(tmp_path, model={**ENSEMBLE, "members": [MLP, part]}, network=MLP))


def test_an_ensemble_of_networks_is_none_of_that(tmp_path):
    learner = craft(tmp_path, model={**ENSEMBLE, "members": [MLP, {"_target_": "own_networks.NormNet", "width": 3}]})
    assert kdexp.load(learner)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("node", [*NO_NETWORKS, *HIDDEN_TARGETS])
def test_an_exported_file_that_names_no_network_is_refused(tmp_path, node):
    about = {"model": node, "mean": [0.5], "std": [0.5], "num_classes": 10, "in_channels": 1, "image_size": 8}
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(1)}, path, {name: json.dumps(value) for name, value in about.items()})
    assert str(path) in refused(path)


def test_the_teacher_of_a_result_is_a_network_too(tmp_path):
    craft(tmp_path, key="f" * 16, model=MARK, network=MLP)
    assert f"{'f' * 16}/result.json is refused" in refused(craft(tmp_path, teacher="f" * 16))


def test_the_command_says_it_in_one_sentence(tmp_path, capsys):
    learner = craft(tmp_path, model=MARK, network=MLP)
    with pytest.raises(SystemExit) as stop:
        main([str(learner), "--format", "safetensors"])
    assert stop.value.code == 2 and not (tmp_path / "student.safetensors").exists()
    assert capsys.readouterr().err == (
        f"kdexp-export: {learner / 'result.json'} is refused: its network _target_='test_security.leave_mark' is no nn.Module\n"
    )


@pytest.mark.parametrize("node", [MARK, *HIDDEN_TARGETS])
def test_the_mischief_of_these_tests_is_real(tmp_path, node):
    with suppress(Exception):  # that the network does not want what was made of it comes too late
        instantiate(node, num_classes=1, in_channels=1, image_size=1)
    (tmp_path / "executed").unlink()


def test_networks_of_users_and_builders_of_families_are_none_of_that(tmp_path, monkeypatch):
    own = {"_target_": "own_networks.NormNet", "width": 3}
    assert kdexp.load(craft(tmp_path, model=own))(torch.rand(2, 1, 8, 8)).shape == (2, 10)

    def build(**given):
        return kdexp.models.mlp.MLP(hidden=[5], **given)

    build.__module__, build.__qualname__ = "kdexp.models.mlp", "build"
    monkeypatch.setattr(kdexp.models.mlp, "build", build, raising=False)
    check_model({"_target_": "kdexp.models.mlp.build"}, tmp_path)
    check_model({"_target_": "kdexp.models.mlp.MLP", "hidden": [5], "checkpoint": "0" * 64}, tmp_path)


@pytest.mark.parametrize("key", [f"../{KEY}", "../../etc", "/etc", KEY.upper(), KEY + "0", KEY + "\n", "", None, 3])
def test_a_key_that_is_none_is_refused(tmp_path, key):
    craft(tmp_path / "store", key=KEY.upper())
    sentence = refused(as_run(tmp_path, ("distilled", key)))
    assert sentence == f"{tmp_path / 'table.json'} names a learner {key!r}, but keys are 16 hexadecimal digits"
    if key is not None:
        assert "names a learner" in refused(craft(tmp_path, teacher=key))
    assert not is_key(key) and is_key(KEY)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "..\\x", "C:x"])
def test_files_beside_the_result_alone_are_opened(tmp_path, name):
    learner = craft(tmp_path)
    rewrite(learner, files={name: "0" * 64})
    sentence = refused(learner, CorruptEntry)
    assert sentence == f"{learner / 'result.json'} is refused: it names {name!r}, which is no file beside it"
    assert not is_plain_name(name) and is_plain_name("last.safetensors")


def test_a_result_rewritten_by_a_stranger_is_read_as_it_stands(tmp_path):
    learner = craft(tmp_path)
    rewrite(learner, model="another name")
    assert kdexp.load(learner)(torch.rand(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("epoch", ["../last", "logits", "best", "x"])
def test_only_epochs_that_are_there_are_read(tmp_path, epoch):
    assert "it has: last" in refused(craft(tmp_path), epoch=epoch)


@pytest.mark.parametrize("changes", [{"spec": None}, {"spec": {}}, {"spec": {"data": {}, "teacher": None}}, {"files": {}}])
def test_a_result_without_what_is_needed_is_refused(tmp_path, changes):
    learner = craft(tmp_path)
    rewrite(learner, **changes)
    refused(learner)


@pytest.mark.parametrize("table", ["[]", "{", '{"store": "x"}', '{"store": 1, "rows": []}', '{"store": "", "rows": [1]}'])
def test_a_table_that_is_none_is_refused(tmp_path, table):
    (tmp_path / "table.json").write_text(table)
    assert refused(tmp_path) == f"{tmp_path / 'table.json'} is not the table of a run"


def test_weights_without_a_description_are_no_network(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"weight": torch.ones(1)}, path)
    assert "does not say whose weights it holds" in refused(path)
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
        (problem.name, problem.sentence.replace("nt.system", "posix.system")) for problem in validate(compose_command(words))
    ]
    assert found == [("teacher.checkpoint", sentence), ("student.checkpoint", sentence)]
    assert not (tmp_path / "outputs").exists()
