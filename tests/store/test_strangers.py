"""Damaged files and files of strangers: every reader refuses them quickly in one sentence and executes nothing."""

import copy
import importlib
import io
import json
import os
import shutil
import sys
import time
import types
import urllib.request

import pytest
import torch
import yaml
from crafted import KEY, MLP, NONE, alter, as_run, craft, result_of, rewrite, signed, spec_of
from crafted_sweeps import CraftedSweep
from experiments import SHORT, compose_command
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import save_file

import kdexp
from kdexp.commands import export
from kdexp.commands import report as command
from kdexp.commands import store as inventory
from kdexp.commands.run import run
from kdexp.commands.store_table import draw_items
from kdexp.data import fingerprint, summary
from kdexp.data.images import ImageFiles
from kdexp.data.shape import Shape
from kdexp.data.summary import Summary, SummaryFile
from kdexp.errors import BadCheckpoint, BadResult, CorruptEntry
from kdexp.files import file_digest
from kdexp.models import torchvision_weights
from kdexp.store import schema
from kdexp.store.descriptions import LearnerFile
from kdexp.store.items import items
from kdexp.store.learners import LearnerStore
from kdexp.store.schema import read_json
from kdexp.store.spec import key_of
from kdexp.sweep import NothingToReport, fold, read

REFUSED = (BadResult, CorruptEntry, BadCheckpoint)
IMAGES = torch.rand(2, 1, 8, 8)

OWN_MODULE = """
from pathlib import Path
from torch import nn
from os import system
from kdexp.distillation.none import NoDistillation

Path(__file__).with_name("imported").touch()

class Net(nn.Module):
    def __init__(self, *, num_classes, in_channels, image_size, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, image):
        return self.head(self.body(image))

class Mine(NoDistillation):
    pass

def net(*, num_classes, in_channels, image_size):
    return Net(num_classes=num_classes, in_channels=in_channels, image_size=image_size)

def remove_everything(path):
    Path(__file__).with_name("executed").touch()

class NoNet:
    def __init__(self, **given):
        Path(__file__).with_name("executed").touch()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own, which Python finds; it leaves a file where it is imported."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "parts_of_mine.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    yield tmp_path / "lib"
    sys.modules.pop("parts_of_mine", None)
    assert not (tmp_path / "lib" / "executed").exists()


def own_learner(folder, **nodes):
    """A stored learner of the own module's network, whose weights were made without importing it."""
    sizes = {"body.1.weight": (4, 64), "body.1.bias": (4,), "head.weight": (10, 4), "head.bias": (10,)}
    weights = {f"model.{name}": torch.rand(size) for name, size in sizes.items()}
    spec = spec_of(**{"model": {"_target_": "parts_of_mine.Net"}, **nodes})
    return LearnerStore(folder).save(key_of(spec), result_of(spec), {"last": weights}, {}).path


@pytest.fixture
def exported(capsys, monkeypatch, tmp_path):
    """Runs kdexp-export; returns its exit code and its error message."""

    def call(*words):
        code = 0
        try:
            export.main([*map(str, words), "--format", "safetensors", "--force", "--output", str(tmp_path / "x.safetensors")])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return call


@pytest.fixture
def kdexp_store(monkeypatch, capsys):
    def call(root, *words):
        monkeypatch.setattr(sys, "argv", ["kdexp-store", *words, "--store", str(root)])
        with pytest.raises(SystemExit) as stop:
            inventory.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return stop.value.code, (printed.out + printed.err).replace("\n", " ")

    return call


NAMES = [
    "parts_of_mine.Net",
    "parts_of_mine.NoNet",
    "parts_of_mine",
    "this.s",
    "antigravity.geohash",
    "kdexp.__main__.main",
    "kdexp.commands.main.main",
    "kdexp.commands.run.run",
    "kdexp.commands.report.main",
    "kdexp.models.__getattr__",
    "kdexp.models.mlp.nn.Linear",
    "kdexp.models.mlp.MLP.forward",
    "kdexp.models.torchvision_nets._choose",
    "kdexp.models.torchvision_nets.difflib.get_close_matches",
    "kdexp.distillation.kd",
    "kdexp.models.pooling.MaxPool2x2.register_forward_hook",
    "torch.nn.Module.__init__",
    "torch.nn.modules.os.system",
    "torch.nn.modules.module.os",
    "torch.nn.functional.torch.hub.load",
    "torch.nn.quantizable.modules",
    "torchvision.models.os.system",
    "torchvision.models._api.sys.exit",
    "torchvision.datasets.MNIST",
    "..kdexp.models.mlp.MLP",
    "kdexp..models.mlp.MLP",
    "kdexp.models.mlp.MLP ",
    "kdexp.models.mlp.MLP\n",
    "kdexp.modelsx.MLP",
    "",
    ".",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_module_is_imported_to_judge_a_name(own, tmp_path, exported, name):
    before = set(sys.modules)
    for nodes in ({"model": {"_target_": name}}, {"method": {**NONE, "_target_": name}}):
        learner = own_learner(tmp_path / "store", **{"model": MLP, **nodes})
        with pytest.raises(REFUSED):
            kdexp.load(learner)
        code, complaint = exported(learner)
        assert code == 2 and complaint.count("\n") == 1
    save_file({"weight": torch.ones(1)}, tmp_path / "net.safetensors", about(model={"_target_": name}))
    with pytest.raises(REFUSED):
        kdexp.load(tmp_path / "net.safetensors")
    new = {module for module in set(sys.modules) - before if not module.startswith(("kdexp", "torch", "safetensors"))}
    assert not {"parts_of_mine", "this", "antigravity"} & new and not (own / "imported").exists()


def about(**changes):
    told = {"model": MLP, "mean": [0.5], "std": [0.5], "num_classes": 10, "in_channels": 1, "image_size": 8, **changes}
    return {name: json.dumps(value) for name, value in told.items()}


def test_a_module_of_ones_own_is_used_once_it_is_named(own, tmp_path, exported):
    learner = own_learner(tmp_path / "store", method={**NONE, "_target_": "parts_of_mine.Mine"})
    with pytest.raises(BadResult) as refusal:
        kdexp.load(learner)
    assert 'kdexp.load(..., modules=["parts_of_mine"]), kdexp-export --module parts_of_mine' in str(refusal.value)
    assert not (own / "imported").exists()
    for modules in (["parts_of_mine"], "parts_of_mine"):
        assert kdexp.load(learner, modules=modules)(IMAGES).shape == (2, 10)
    assert exported(learner)[0] == 2 and exported(learner, "--module", "parts_of_mine") == (0, "")
    again = kdexp.load(tmp_path / "x.safetensors", modules=["parts_of_mine"])
    assert torch.equal(again(IMAGES), kdexp.load(learner, modules=["parts_of_mine"])(IMAGES))


def test_an_imported_module_is_not_trusted_for_that(own, tmp_path):
    importlib.import_module("parts_of_mine")
    with pytest.raises(BadResult):
        kdexp.load(own_learner(tmp_path))


def test_of_a_module_of_ones_own_networks_alone_are_used(own, tmp_path):
    kdexp.load(own_learner(tmp_path, model={"_target_": "parts_of_mine.net"}), modules=["parts_of_mine"])
    for node in ({"_target_": "parts_of_mine.remove_everything", "path": "/"}, {"_target_": "parts_of_mine.NoNet"}):
        for nodes in ({"model": node}, {"method": node}):
            with pytest.raises(BadResult):
                kdexp.load(own_learner(tmp_path, **nodes), modules=["parts_of_mine"])
    for name in ("parts_of_mine.system", "parts_of_mine.Path", "parts_of_mine.nn.Linear", "parts_of_mine.nothing"):
        with pytest.raises(BadResult):
            kdexp.load(own_learner(tmp_path, model={"_target_": name}), modules=["parts_of_mine"])
    with pytest.raises(BadResult, match="can't be imported .*must be on PYTHONPATH"):
        kdexp.load(own_learner(tmp_path, model={"_target_": "no_such_module.Net"}), modules=["no_such_module"])


def test_published_weights_are_never_fetched(tmp_path, monkeypatch):
    def fetched(*_words, **_named):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    monkeypatch.setattr(urllib.request, "urlopen", fetched)
    monkeypatch.setattr(torchvision_weights.TorchvisionWeights, "fetch", fetched)
    node = {"_target_": "kdexp.models.torchvision_nets.torchvision_net", "name": "squeezenet1_1", "stem": "default"}
    shape = Shape(3, 3, 64)
    learner = craft(tmp_path, model={**node, "weights": "DEFAULT"}, network={**node, "weights": None}, shape=shape)
    assert kdexp.load(learner)(torch.rand(1, 3, 64, 64)).shape == (1, 3)


RESNET = {"_target_": "kdexp.models.resnet_cifar.ResNet", "depth": 8, "widths": [4, 4, 8, 16]}
SIMKD = {"_target_": "kdexp.distillation.simkd.SimKD", "weight": 1.0, "factor": 2}
SIMKD |= {"student_layers": None, "teacher_layers": None, "temperature": 1.0, "alpha": None}
SIMKD |= {"ce_weight": None, "kd_weight": None}
TOO_LARGE = [
    {"model": {**MLP, "hidden": [10**9]}},
    {"model": {**MLP, "hidden": [10**18, 10**18]}},
    {"model": {**MLP, "hidden": [1] * 10_000}},
    {"model": {**MLP, "hidden": [-1]}},
    {"model": {**MLP, "hidden": "x"}},
    {"model": {**RESNET, "depth": 6 * 10**8 + 2}},
    {"model": {**RESNET, "depth": 10**400}},
    {"model": {"_target_": "kdexp.models.ensemble.Ensemble", "members": [MLP] * 1000, "combine": "logits", "temperature": 1.0}},
    {"model": {"_target_": "kdexp.models.torchvision_nets.torchvision_net", "name": ["x"], "weights": None, "stem": "default"}},
    {"model": {"_target_": "torch.nn.Linear", "in_features": 10**6, "out_features": 10**6}},
    {"model": {"_target_": "torchvision.models.resnet.ResNet", "block": "x", "layers": [10**9]}},
    {"shape": Shape(10**12, 1, 8)},
    {"shape": Shape(10**6, 1, 8)},
    {"shape": Shape(10, 4096, 4096)},
    {"shape": Shape(10, 1, 10**7)},
    {"shape": Shape(10, 3, 8)},
]


@pytest.mark.slow
@pytest.mark.parametrize("claim", TOO_LARGE)
def test_a_network_far_larger_than_its_weights_is_never_built(tmp_path, exported, claim):
    spec = spec_of(**claim) if "depth" not in claim.get("model", {}) or claim["model"]["depth"] < 10**100 else spec_of()
    learner = craft(tmp_path)
    rewrite(learner, spec=spec | claim if "model" in claim else spec)
    if claim.get("shape") == Shape(10, 3, 8):
        rewrite(learner, spec={**spec, "data": {**spec["data"], "mean": [0.5]}})
    began = time.process_time()
    with pytest.raises(REFUSED) as refusal:
        kdexp.load(learner)
    assert ("\n" not in str(refusal.value) and str(learner) in str(refusal.value)) or "far larger" in str(refusal.value)
    assert exported(learner)[0] == 2
    data = spec["data"]
    told = about(model=claim.get("model", MLP), **{name: data[name] for name in ("num_classes", "in_channels", "image_size")})
    save_file({"features.1.weight": torch.ones(5, 64)}, tmp_path / "net.safetensors", told)
    with pytest.raises(REFUSED):
        kdexp.load(tmp_path / "net.safetensors")
    assert time.process_time() - began < 5


def test_claimed_sizes_take_no_memory(tmp_path):
    teacher = craft(tmp_path, model=RESNET)
    net = kdexp.load(teacher).network.state_dict()
    projector = {"0.weight": (8, 16, 1, 1), "3.weight": (8, 8, 3, 3), "6.weight": (16, 8, 1, 1)}
    projector |= {f"{n}.{name}": (size,) for n, size in ((1, 8), (4, 8), (7, 16)) for name in ("weight", "bias")}
    projector |= {f"{n}.running_{name}": (size,) for n, size in ((1, 8), (4, 8), (7, 16)) for name in ("mean", "var")}
    projector |= {f"{n}.num_batches_tracked": () for n in (1, 4, 7)}
    spec = spec_of(model=RESNET, method=SIMKD, teacher=teacher.name)
    weights = {f"model.{name}": value for name, value in net.items()}
    weights |= {f"method.projector.{name}": torch.ones(size) for name, size in projector.items()}
    result = result_of(spec, train_images=2 * 10**9)
    learner = LearnerStore(tmp_path).save(key_of(spec), result, {"last": weights}, {}).path
    assert kdexp.load(learner)(IMAGES).shape == (2, 10)


def test_a_learner_is_not_its_own_teacher(tmp_path):
    spec = spec_of(model=RESNET, method=SIMKD)
    learner = craft(tmp_path, model=RESNET, method=SIMKD, key=KEY)
    rewrite(learner, spec={**spec, "teacher": KEY})
    with pytest.raises(CorruptEntry, match="has a name that is not its key"):
        kdexp.load(learner)


def deep(depth):
    return '{"a":' * depth + "0" + "}" * depth


def broken(learner, how):
    """Damages a result in one of the ways of `DAMAGE`."""
    path = learner / "result.json"
    text = path.read_text()
    texts = {
        "cut": text[: len(text) // 2],
        "empty": "",
        "list": "[]",
        "text": '"x"',
        "null": "null",
        "not json": "result: x",
        "duplicate key": text.replace('"model"', '"method": "CE", "model"', 1),
        "nan": text.replace('"top1": 0.5', '"top1": NaN'),
        "infinity": text.replace('"top1": 0.5', '"top1": -Infinity'),
        "overflow": text.replace('"top1": 0.5', '"top1": 1e999'),
        "huge whole number": text.replace('"epochs": 1', '"epochs": 1' + "0" * 400),
        "too long a number": text.replace('"epochs": 1', '"epochs": 1' + "0" * 5000),
        "deep": deep(3000),
        "very deep": deep(100_000),
        "deep in a key": text.replace('"model": "net"', f'"model": "net", "more": {deep(100)}'),
        "lone surrogate": text.replace('"net"', '"\\\\ud800"'.replace("\\\\", "\\")),
        "long text": text.replace('"net"', f'"{"x" * 3000}"'),
        "edited": text.replace('"CE"', '"KD"'),
        "no digest": json.dumps({name: value for name, value in json.loads(text).items() if name != "digest"}),
        "accuracy of 200 %": json.dumps(signed(json.loads(text) | {"test": {"last": {"top1": 2, "nll": 1, "ece": 0}}})),
        "other spec": json.dumps(signed(json.loads(text) | {"spec": spec_of(seed=1)})),
    }
    if how in texts:
        path.write_text(texts[how])
    elif how == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "no text":
        path.write_bytes(b'\xff{"')
    return texts.keys()


DAMAGE = ["pipe", "folder", "no text", "cut", "empty", "list", "text", "null", "not json", "duplicate key", "nan", "infinity"]
DAMAGE += ["overflow", "huge whole number", "too long a number", "deep", "very deep", "deep in a key", "lone surrogate"]
DAMAGE += ["long text", "edited", "no digest", "accuracy of 200 %", "other spec"]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_result_is_refused_by_every_reader(tmp_path, exported, kdexp_store, how):
    learner, root = craft(tmp_path), tmp_path
    broken(learner, how)
    if how not in ("other spec", "pipe", "folder"):
        with pytest.raises(CorruptEntry) as refusal:
            kdexp.load(learner)
        assert str(learner) in str(refusal.value) and len(str(refusal.value)) < 600 + len(str(learner))
        assert exported(learner)[0] == 2
    heard = []
    assert LearnerStore(tmp_path, heard.append).find(KEY) is None
    assert len(heard) == (how not in ("pipe", "folder"))
    for words in (["list"], ["verify"]):
        code, shown = kdexp_store(root, *words)
        assert code == 1 and "damaged" in shown and str(learner) in shown
    code, shown = kdexp_store(root, "show", KEY)
    assert code == 2 and f"{KEY} is damaged: " in shown
    sweep = read_sweep_of(tmp_path, learner)
    assert len(sweep.unusable) == 1 and not sweep.results


def read_sweep_of(folder, learner):
    (folder / "run").mkdir()
    as_run(folder / "run", ("distilled", learner.name), store="../learner")
    (folder / "run" / "config.yaml").write_text("{}")
    return read([folder / "run"])


def test_a_file_of_unusual_size_is_not_read(tmp_path, monkeypatch):
    learner = craft(tmp_path)
    monkeypatch.setattr(schema, "LARGEST_FILE", 500)
    with pytest.raises(CorruptEntry, match="is larger than"):
        kdexp.load(learner)


def test_keys_of_a_newer_version_are_kept(tmp_path):
    learner = craft(tmp_path)
    rewrite(learner, invented_tomorrow={"a": [1]}, digest="")
    assert read_json(learner / "result.json", LearnerFile)["invented_tomorrow"] == {"a": [1]}
    assert kdexp.load(learner)(IMAGES).shape == (2, 10)


def test_problems_are_named_by_path_value_and_what_was_expected(tmp_path):
    learner = craft(tmp_path)
    result = json.loads((learner / "result.json").read_text())
    result["spec"]["data"]["num_classes"], result["test"]["last"]["top1"], result["trained_at"] = 0, "\x1b[31m", None
    del result["macs"], result["history"]
    (learner / "result.json").write_text(json.dumps(signed(result)))
    with pytest.raises(CorruptEntry) as refusal:
        kdexp.load(learner)
    assert str(refusal.value) == (
        f"{learner / 'result.json'} is damaged: history: missing; macs: missing; spec.data.num_classes=0: "
        "must be at least 1 and at most 1000000 and 2 more"
    )


def reused(folder):
    """The output of a repeated run."""
    screen = io.StringIO()
    config = compose_command([f"output_dir={folder}", *SHORT, "epochs=1", "teacher_epochs=1", "limit_batches=1"])
    assert run(config, console=Console(file=screen, width=10_000))
    return screen.getvalue()


@pytest.mark.slow
def test_a_run_trains_damaged_learners_again(tmp_path):
    reused(tmp_path)
    (table,) = tmp_path.glob("runs/*/table.json")
    keys = {row["role"]: row["key"] for row in json.loads(table.read_text())["rows"]}
    learner = tmp_path / "store" / "learner" / keys["distilled"]
    rewrite(learner, train_images="many")
    alter(tmp_path / "store" / "learner" / keys["baseline"] / "result.json", '"epoch": 1', '"epoch": 2')
    told = reused(tmp_path)
    assert (
        "was changed after it was written; it will be trained again" in told
        and "train_images='many': must be a whole number" in told
    )
    assert told.count("reused, trained") == 1
    alter(table, '"status": "finished"', '"status": "failed"')
    with pytest.raises(BadResult, match="table.json was changed after it was written"):
        kdexp.load(table.parent)


# Sweeps and runs


@pytest.fixture
def sweep(tmp_path):
    """Two jobs that finished."""
    made = CraftedSweep(tmp_path)
    for seed in range(2):
        made.job(f"seed={seed}", seed=seed)
    made.close()
    return made


@pytest.fixture
def told(monkeypatch, call_main):
    """Runs kdexp-report; returns its exit code and what it printed."""
    monkeypatch.setattr("kdexp.sweep.page.available", lambda: False)
    return lambda folder: call_main(command.main, "kdexp-report", folder, "--output", folder / "out")


SELF = "a: &x [*x]\n"
LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(12))
FILES = {
    "jobs.json": [
        "{",
        "[]",
        '{"jobs": 3}',
        '{"jobs": [{"overrides": [], "folder": "../../x"}]}',
        '{"jobs": [{"folder": "000"}]}',
    ],
    "000/table.json": ["", "[]", '{"store": "/etc/learner", "rows": []}', '{"store": "x/../../learner", "rows": []}'],
    "000/status.json": ["{", "[]", '{"state": "splendid"}', '{"state": "finished", "reason": 3}'],
    "000/config.yaml": ["{", "[]", "a: 1", SELF, LAUGHS, "a: !!python/object:os.system x", "? [a]\n: b", "a: " + "[" * 3000],
    "000/command.txt": [],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FILES.items() for text in texts])
def test_a_damaged_file_of_a_sweep_is_named(sweep, told, name, text):
    (sweep.folder / name).write_text(text)
    code, shown = told(sweep.folder)
    assert code == 3 and "Damaged files: 1." in shown and str(sweep.folder / name) in shown
    if name != "jobs.json":
        assert "1 of 2 jobs are finished" in shown and "000 seed=0: damaged" in shown
    if name in ("000/status.json", "jobs.json"):
        assert all(row.n == 2 for row in fold(read([sweep.folder])).tables[0].rows if row.role != "teacher"), (
            "no result is lost"
        )


def test_a_run_of_its_own_whose_command_is_damaged_is_named(sweep, told):
    (sweep.folder / "000" / "command.txt").write_text("kdexp 'seed=0\n")
    code, shown = told(sweep.folder / "000")
    assert code == 3 and "command.txt is damaged: No closing quotation" in shown


def test_a_sweep_with_nothing_but_a_damaged_list_of_jobs_is_refused(tmp_path, told):
    (tmp_path / "jobs.json").write_text("{")
    with pytest.raises(NothingToReport, match="jobs.json is damaged"):
        read([tmp_path])
    assert told(tmp_path)[0] == 2


def test_numbers_that_were_edited_are_not_shown(sweep, told):
    table = sweep.folder / "000" / "table.json"
    content = json.loads(table.read_text())
    content["rows"][0]["latency_ms"] = 5.0
    table.write_text(json.dumps(signed(content)))
    assert told(sweep.folder)[0] == 0
    alter(table, "5.0", "6.0")
    code, shown = told(sweep.folder)
    assert code == 3 and f"{table} was changed after it was written" in shown


def test_logits_that_were_edited_are_not_counted(sweep):
    for seed, path in enumerate(sorted(sweep.store.glob("*/logits.safetensors"))):
        save_file({"last": torch.ones(3), "labels": torch.ones(seed + 1)}, path)
    rows = fold(read([sweep.folder])).tables[0].rows
    assert all(row.difference.over_seeds_and_images is None for row in rows if row.difference)
    for path in sweep.store.glob("*/result.json"):  # and if a stranger vouches for them
        rewrite(path.parent, files={"logits.safetensors": file_digest(path.with_name("logits.safetensors"))})
    assert all(
        row.difference.over_seeds_and_images is None for row in fold(read([sweep.folder])).tables[0].rows if row.difference
    )


def test_a_damaged_summary_is_reported_and_made_again(tmp_path, monkeypatch):
    looks = []
    found = Summary("f" * 64, [0.5], [0.25], [], [3, 4])
    monkeypatch.setattr(fingerprint, "_read_all", lambda *_: looks.append(1) or found)
    monkeypatch.setattr(summary, "_name", lambda *_: "listing")
    files = ImageFiles([], torch.zeros(0, dtype=torch.int64), 1, 8)

    def known():
        cache = SummaryFile(tmp_path, types.SimpleNamespace(stamp=lambda: "", unlabelled_files=lambda: None))
        return fingerprint.summarise(types.SimpleNamespace(train=files, test=files), None, given=False, cache=cache)

    assert known() == known() == found and len(looks) == 1
    path = tmp_path / "listing.json"
    whole = path.read_text()
    for text in (whole[:-9], whole.replace("0.25", "0.26"), "[]", whole.replace("[0.5]", "3"), json.dumps(found[:3])):
        path.write_text(text)
        looks.clear()
        again = known()
        (said,) = again.warnings
        assert again[:3] == found[:3] and looks and f"{path} " in said and "read again" in said
        assert known() == found and len(looks) == 1


@pytest.mark.parametrize("node", ["teacher", "student", "distillation", "teacher_optimizer"])
def test_a_configuration_without_a_node_of_the_table_is_named(sweep, told, node):
    path = sweep.folder / "000" / "config.yaml"
    path.write_text(json.dumps(yaml.safe_load(path.read_text()) | {node: None}))
    code, shown = told(sweep.folder)
    assert code == 3 and f"{path} is damaged: {node}" in shown


def test_a_seed_that_is_no_number_is_named(sweep, told):
    path = sweep.folder / "000" / "config.yaml"
    path.write_text(json.dumps(yaml.safe_load(path.read_text()) | {"seed": []}))
    code, shown = told(sweep.folder)
    assert code == 3 and f"{path} is damaged: seed=[]: must be a whole number" in shown


def test_a_name_is_no_markup(sweep, told, tmp_path, kdexp_store):
    learner = craft(tmp_path / "other")
    rewrite(learner, model="[/x]", method="[red]")
    code, shown = kdexp_store(tmp_path / "other", "list")
    assert code == 0 and "[/x]" in shown and "[red]" in shown
    for path in sweep.store.glob("*/result.json"):
        rewrite(path.parent, model="[/x]", dataset="[/y]")
    code, shown = told(sweep.folder)
    assert code == 0 and "[/y]: [/x]" in shown


# Any value, anywhere

VALUES = [None, True, -1, 0, 3, 10**12, 10**30, 0.5, 1e300, "", "x", "../..", "[/x]", "\x1b[2J", "x" * 3000, [], {}, [[]]]
VALUES += [{"_target_": "os.system"}, {"a": {"b": None}}, [1] * 40, "0" * 16, "0" * 64, "kdexp.models.mlp.MLP"]


def places(value, path=()):
    """The paths of every value within a value, itself included."""
    yield path
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, name))


def changed(value, path, new):
    """A copy of the value in which another one stands at the path."""
    if not path:
        return new
    made = copy.deepcopy(value)
    at = made
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = new
    return made


MUTATION = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(VALUES))


def mutated(value, mutation):
    share, new = mutation
    there = list(places(value))
    found = changed(value, there[int(share * len(there))], new)
    return signed(found) if isinstance(found, dict) and "digest" in found else found


@pytest.fixture(scope="module")
def folder_of_sweep(tmp_path_factory):
    """A sweep, and a learner of a store of its own, whose reports come without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdexp.sweep.page.available", lambda: False)
        yield sweep_and_learner(tmp_path_factory)


def sweep_and_learner(tmp_path_factory):
    made = CraftedSweep(tmp_path_factory.mktemp("sweep"))
    made.job("seed=0")
    made.job("seed=1", seed=1)
    made.close()
    learner = craft(tmp_path_factory.mktemp("store"))
    for path in made.folder.glob("*/table.json"):
        path.write_text(json.dumps(signed(json.loads(path.read_text()) | {"digest": ""})))
    return made, learner


@pytest.mark.slow
@settings(max_examples=100)
@given(MUTATION)
@example((0.0, []))
def test_a_result_with_any_content_is_used_or_refused(folder_of_sweep, mutation):
    learner = folder_of_sweep[1]
    whole = (learner / "result.json").read_text()
    root, place = learner.parent, learner
    try:
        found = mutated(json.loads(whole), mutation)
        (learner / "result.json").write_text(json.dumps(found))
        try:
            assert kdexp.load(learner)(IMAGES).shape == (2, 10)
        except REFUSED as error:
            assert "\n" not in str(error)
        if isinstance(found, dict) and isinstance(found.get("spec"), dict):
            place = learner.rename(root / key_of_any(found["spec"], learner.name))
        (item,) = items(root.parent)
        draw_items([item], 80)
        LearnerStore(root.parent, lambda _: None).find(place.name)
    finally:
        place.rename(learner)
        (learner / "result.json").write_text(whole)


def key_of_any(spec, default):
    try:
        return key_of(spec)
    except (ValueError, OverflowError):
        return default


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jobs.json", "000/table.json", "000/status.json", "000/config.yaml", "result"])
@settings(max_examples=40)
@given(MUTATION)
def test_a_sweep_with_any_file_content_is_reported(folder_of_sweep, name, mutation):
    sweep = folder_of_sweep[0]
    path = sweep.folder / name
    if name == "result":
        path = sorted(sweep.store.glob("*/result.json"))[0]
    whole = path.read_text()
    value = yaml.safe_load(whole)
    (sweep.folder / "out").mkdir(exist_ok=True)
    try:
        path.write_text(json.dumps(mutated(value, mutation)))
        began = time.process_time()
        code = command.print_report([sweep.folder], sweep.folder / "out", Console(file=io.StringIO(), markup=False))
        assert code in (0, 3) and time.process_time() - began < 5
    except NothingToReport as error:
        assert name == "jobs.json" and str(error)
    finally:
        path.write_text(whole)
        shutil.rmtree(sweep.folder / "out")
