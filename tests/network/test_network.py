import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kdexp.data.shape import Shape
from kdexp.errors import BadCheckpoint
from kdexp.network.build import build_network
from kdexp.network.checkpoint.fit import load_checkpoint
from kdexp.network.checkpoint.read import read_checkpoint

SHAPE = Shape(num_classes=3, in_channels=1, image_size=4)


def net(seed=0, hidden=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, 2))


def weights(seed=1):
    return net(seed).state_dict()


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def saved(folder, found, name="weights.pt", **given):
    torch.save(found, folder / name, **given)
    return folder / name


class Mischief:
    """Makes a folder when it is unpickled by a loader that executes code."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    "packed",
    [
        lambda found: found,
        lambda found: {"model": found, "epoch": 3},
        lambda found: {"state_dict": found, "optimizer": {"lr": 0.1}},
        lambda found: {"model": {"state_dict": found}},
        lambda found: {"run": {"net": found}, "epoch": 3},
        lambda found: {"epoch": 3, **found},
        lambda found: {f"module.{name}": value for name, value in found.items()},
        lambda found: {"state_dict": {f"module.{name}": value for name, value in found.items()}},
    ],
)
def test_torch_files_are_read_under_every_usual_key(tmp_path, packed):
    assert same(read_checkpoint(saved(tmp_path, packed(weights()))).tensors, weights())


def test_old_torch_files_are_read(tmp_path):
    path = saved(tmp_path, weights(), _use_new_zipfile_serialization=False)
    assert same(read_checkpoint(path).tensors, weights())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_files_are_read(tmp_path, prefix):
    save_file({prefix + name: value for name, value in weights().items()}, tmp_path / "weights.safetensors")
    assert same(read_checkpoint(tmp_path / "weights.safetensors").tensors, weights())


def test_a_path_may_be_a_string(tmp_path):
    assert same(read_checkpoint(str(saved(tmp_path, weights()))).tensors, weights())


def test_only_a_leading_module_is_dropped(tmp_path):
    found = {"module.a.module.weight": torch.ones(1), "module.modules.bias": torch.ones(2)}
    assert list(read_checkpoint(saved(tmp_path, found)).tensors) == ["a.module.weight", "modules.bias"]


def test_a_loaded_net_has_all_the_weights_and_buffers_of_the_file(tmp_path):
    model, other = net(seed=0), net(seed=1)
    other(torch.randn(6, 4))
    load_checkpoint(model, saved(tmp_path, other.state_dict()))
    assert same(model.state_dict(), other.state_dict())
    assert model[1].num_batches_tracked == 1


REFUSED = r"weights\.pt is refused: loading it would run code \(\w+\.mkdir\); ask for a safetensors file or a state dict$"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_that_would_execute_code_is_refused_and_does_not(tmp_path, wrapped, zipped):
    mark = tmp_path / "executed"
    content = weights() | {"extra": Mischief(mark)} if wrapped else Mischief(mark)
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadCheckpoint, match=REFUSED):
        read_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_that_would_execute_code_is_refused_and_does_not(tmp_path, protocol):
    mark, path = tmp_path / "executed", tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"weight": Mischief(mark)}, protocol=protocol))
    with pytest.raises(BadCheckpoint, match=REFUSED):
        read_checkpoint(path)
    assert not mark.exists()


def test_a_whole_pickled_net_is_read_as_data(tmp_path):
    assert same(read_checkpoint(saved(tmp_path, net(1))).tensors, weights())


def test_the_malicious_pickles_of_these_tests_run_code(tmp_path):
    pickle.loads(pickle.dumps(Mischief(tmp_path / "executed")))
    assert (tmp_path / "executed").is_dir()


@pytest.mark.parametrize(
    ("content", "stray"),
    [
        (torch.ones(3), "it is a Tensor"),
        ([torch.ones(3)], "it is a list"),
        ({"weight": 1.0, "bias": [3]}, "'weight' is a float; 'bias' is a list"),
        ({"model": {"weight": "text"}}, "'weight' is a str"),
        ({"run": {"net": {"weight": 3.0}}, "epoch": 3}, "'run' is a dict; 'epoch' is a int"),
    ],
)
def test_a_file_without_a_state_dict_is_refused_with_its_contents(tmp_path, content, stray):
    path = saved(tmp_path, content)
    with pytest.raises(BadCheckpoint) as refusal:
        read_checkpoint(path)
    assert str(refusal.value).endswith(f"weights.pt holds no state dict (a mapping of names to tensors): {stray}")


def test_another_width_is_refused_with_the_first_tensors_and_their_shapes(tmp_path):
    path = saved(tmp_path, net(hidden=6).state_dict())
    with pytest.raises(BadCheckpoint) as refusal:
        load_checkpoint(net(hidden=5), path)
    assert str(refusal.value) == (
        f"{path} does not fit Sequential: 7 tensors differ, first 0.weight (model 5×4, file 6×4); "
        "0.bias (model 5, file 6); 1.weight (model 5, file 6)"
    )


def test_missing_and_surplus_tensors_are_named_before_misshapen_ones(tmp_path):
    found = weights() | {"head.bias": torch.zeros(2, 3), "2.bias": torch.zeros(9)}
    del found["1.num_batches_tracked"]
    path = saved(tmp_path, found)
    with pytest.raises(BadCheckpoint) as refusal:
        load_checkpoint(net(), path)
    assert str(refusal.value) == (
        f"{path} does not fit Sequential: 2 tensors differ, first head.bias (model none, file 2×3); 2.bias (model 2, file 9)"
    )


def test_a_refused_checkpoint_leaves_the_network_unchanged(tmp_path):
    model = net(seed=0)
    path = saved(tmp_path, weights() | {"surplus": torch.ones(1)})
    with pytest.raises(BadCheckpoint, match="1 tensors differ"):
        load_checkpoint(model, path)
    assert same(model.state_dict(), weights(seed=0))


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_missing_file_is_refused_by_its_path(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(BadCheckpoint, match=f"{name} can't be read as weights: .*[Nn]o such file"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_folder_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(BadCheckpoint, match="can't be read as weights: it is a folder$"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadCheckpoint, match=r"can't be read as weights: it is (no safetensors file, or a )?damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello world\n", b"<html>\n", b"\x89PNG\r\n", b"X\xff\xff\xff"])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    reason = "it is (no safetensors file|damaged, or not a state dict)" if content else "it is empty"
    with pytest.raises(BadCheckpoint, match=f"{name} can't be read as weights: {reason}"):
        read_checkpoint(path)


def test_a_network_is_built_for_the_shape_of_the_data():
    node = {"_target_": "kdexp.models.mlp.MLP", "hidden": [5], "checkpoint": "nowhere.pt"}
    built = build_network(node, SHAPE)
    assert type(built).__name__ == "MLP"
    assert [tuple(parameter.shape) for parameter in built.parameters()] == [(5, 16), (5,), (3, 5), (3,)]
    assert built(SHAPE.probe("cpu")).shape == (2, 3)


def test_the_probe_of_a_shape_is_a_batch_of_zeros():
    probe = Shape(num_classes=3, in_channels=2, image_size=4).probe("cpu", images=5)
    assert torch.equal(probe, torch.zeros(5, 2, 4, 4))
