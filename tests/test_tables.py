"""The published tables by name: their protocols, pairs, recipes and sweeps."""

from collections import defaultdict
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf
from test_configs import CONF, options

from kdexp.cli import _swept_in_files, expand
from kdexp.composer import Composer
from kdexp.config import compose_command
from kdexp.validation import Validator

validator = Validator()
"""One for all, as for the jobs of a sweep: each network is looked at once."""

SLOW_STUDENTS = ("mobilenetv2", "shufflenet")


@pytest.fixture(scope="module")
def composed():
    """Every pair of the tables, by name: the experiments that are called after their protocol."""
    configs = {name: compose_command([f"experiment={name}"]) for name in options("experiment")}
    return {name: config for name, config in configs.items() if name.startswith(f"{config.choices.protocol}_")}


def jobs_of(*words: str) -> list[list[str]]:
    """What the command line makes of a sweep's file."""
    node = Composer().hydra(words)
    assert node.mode == RunMode.MULTIRUN
    return expand([*_swept_in_files(node, words), *words])


def swept(row: str) -> list[str]:
    """The methods of a row."""
    return Composer().hydra([f"sweep={row}"]).sweeper.params.distillation.split(",")


def test_every_pair_of_the_tables_is_there():
    pairs = options("experiment")
    assert sum(name.startswith("crd_") for name in pairs) == 7 + 6
    assert sum(name.startswith("simkd_") for name in pairs) == 7
    assert sum(name.startswith("kim2021_") for name in pairs) == 2 + 2


def test_a_pair_is_named_by_its_protocol_teacher_and_student_and_its_file_says_how_it_is_run(composed):
    for name, config in composed.items():
        choices = config.choices
        assert name.startswith(f"{choices.protocol}_") and name.endswith(f"{choices.teacher}_{choices.student}")
        text = (CONF / "experiment" / f"{name}.yaml").read_text()
        assert f"#   kdexp experiment={name} dataset.root=FOLDER sweep={choices.protocol}_row\n" in text
        assert "not measured" in text.lower()


def test_the_training_is_that_of_the_source(composed):
    sgd = {"_target_": "kdexp.optimization.SGD", "momentum": 0.9, "weight_decay": 0.0005, "clip_norm": None}
    crd = {"lr": 0.05, "nesterov": False, "decay_biases_and_norms": True} | sgd
    kim = {"lr": 0.1, "nesterov": True, "decay_biases_and_norms": False} | sgd
    for name, config in composed.items():
        optimizer, milestones, epochs, batch = (kim, [100, 150], 200, 128) if "kim" in name else (crd, [150, 180, 210], 240, 64)
        slow = config.choices.student.startswith(SLOW_STUDENTS)
        assert config.optimizer == (optimizer | {"lr": 0.01} if slow else optimizer)
        assert config.teacher_optimizer == optimizer
        assert config.schedule == config.teacher_schedule
        assert (config.schedule.milestones, config.schedule.gamma) == (milestones, 0.1)
        assert (config.epochs, config.teacher_epochs, config.batch_size) == (epochs, epochs, batch)
        data = config.dataset
        assert (config.choices.dataset, data.val_fraction, data.crop_padding, data.flip) == ("cifar100", 0.0, 4, True)
        assert data.mean == ([0.5071, 0.4865, 0.4409] if "kim" in name else [0.5071, 0.4867, 0.4408])
        assert data.std == ([0.2673, 0.2564, 0.2762] if "kim" in name else [0.2675, 0.2565, 0.2761])


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["experiment=crd_wrn_40_2_wrn_16_2"], (4.0, 0.1, None, None)),
        (["experiment=simkd_resnet32x4_vgg8"], (4.0, None, 1.0, 1.0)),
        (["experiment=simkd_resnet32x4_vgg8", "distillation=hint"], (4.0, None, 1.0, 1.0)),
        (["experiment=kim2021_wrn_16_4_wrn_16_2"], (3.0, 0.0, None, None)),
        (["experiment=kim2021_wrn_16_4_wrn_16_2", "protocol=kim2021_t20"], (20.0, 0.0, None, None)),
        (["experiment=kim2021_wrn_16_4_wrn_16_2", "distillation=mse_logits"], (1.0, None, None, None)),
        (["experiment=kim2021_wrn_28_4_wrn_16_4_wrn_16_2"], (3.0, 0.0, None, None)),
    ],
)
def test_the_weights_are_those_of_the_source(words, weights):
    node = compose_command(words).distillation
    assert (node.temperature, node.alpha, node.ce_weight, node.kd_weight) == weights


def test_a_teacher_in_between_is_taught_by_the_largest():
    for middle, weights in (("", (3.0, 0.0)), ("mse_", (1.0, None))):
        config = compose_command([f"experiment=kim2021_wrn_28_4_{middle}wrn_16_4_wrn_16_2"])
        assert (config.teacher.depth, config.teacher.teacher.depth) == (16, 28)
        node = config.teacher.distillation
        assert (node.temperature, node.alpha) == weights
        assert validator.problems(config) == []


def test_numbers_of_one_network_under_one_protocol_agree(composed):
    found = defaultdict(set)
    for config in composed.values():
        for role in ("teacher", "baseline"):
            network = config.choices["teacher" if role == "teacher" else "student"]
            if role == "baseline" or "teacher" not in config.teacher:  # one that is distilled itself has another
                found[config.choices.protocol, role, network].add(str(config.published[role]))
    assert {key: numbers for key, numbers in found.items() if len(numbers) > 1} == {}


def test_a_row_has_every_method_that_has_a_number(composed):
    for name, config in composed.items():
        methods = swept(f"{config.choices.protocol}_row")
        assert set(config.published.distilled) <= set(methods), name


@pytest.mark.parametrize(
    ("experiment", "row", "count"),
    [
        ("crd_vgg13_vgg8", "crd_row", 8 * 3),
        ("simkd_resnet32x4_resnet8x4", "simkd_row", 9 * 3),
        ("kim2021_wrn_28_4_wrn_16_2", "kim2021_row", 4 * 3),
        ("cifar10_tutorial", "pytorch_tutorial_row", 3),
    ],
)
def test_a_sweep_file_makes_the_row(experiment, row, count):
    jobs = jobs_of(f"experiment={experiment}", f"sweep={row}")
    assert len(jobs) == len(set(map(tuple, jobs))) == count
    assert {word for job in jobs for word in job if word.startswith("distillation=")} == {
        f"distillation={m}" for m in swept(row)
    }
    there = [
        job for job in jobs if all(f"distillation={name}" not in job for name in set(swept(row)) - set(options("distillation")))
    ]
    composer = Composer()
    for job in there[::3]:
        config = composer.compose(job)
        assert validator.problems(config) == [] and config["choices"]["experiment"] == experiment
        assert f"distillation={config['choices']['distillation']}" in job


def test_what_the_command_line_sets_a_sweep_file_does_not_vary():
    words = ("experiment=kim2021_wrn_16_4_wrn_16_2", "sweep=kim2021_row", "seed=5", "distillation=kd")
    assert jobs_of(*words) == [[f"protocol={name}", *words] for name in ("kim2021", "kim2021_t20")]


def test_the_two_temperatures_share_the_job_that_has_none():
    pair = "experiment=kim2021_wrn_16_4_wrn_16_2"
    ours, theirs = (
        compose_command([pair, f"protocol={name}", "distillation=mse_logits"]) for name in ("kim2021", "kim2021_t20")
    )
    for config in (ours, theirs):
        OmegaConf.update(config, "choices", None)
    assert ours == theirs


@pytest.fixture
def own(tmp_path):
    """A folder of one's own with a protocol, a pair, recipes for both, and a row."""
    folder = tmp_path / "own"
    files = {
        "protocol/paper": "epochs: 3\nbatch_size: 16\ndistillation: {temperature: 9.0}",
        "experiment/pair": "defaults:\n  - override /protocol: paper\nbatch_size: 8",
        "recipe/paper_kd": "distillation: {temperature: 2.0, alpha: 0.5}",
        "recipe/pair_kd": "distillation: {temperature: 3.0}",
        "sweep/row": "hydra: {mode: MULTIRUN, sweeper: {params: {distillation: 'kd,hint', seed: '0,1'}}}",
    }
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# @package _global_\n{text}\n")
    return folder


def test_a_pair_beats_its_protocol_and_a_recipe_beats_both(own):
    def compose(*words):
        return compose_command(words, config_dir=str(own))

    pair = compose("experiment=pair")
    assert (pair.epochs, pair.batch_size) == (3, 8)
    assert (pair.distillation.temperature, pair.distillation.alpha) == (3.0, 0.5)
    assert compose("protocol=paper").distillation.temperature == 2.0
    assert compose("experiment=pair", "distillation=hint").distillation.temperature == 9.0
    assert compose("experiment=pair", "distillation.temperature=7").distillation.temperature == 7
    for words in (["experiment=pair"], ["experiment=pair", "sweep=row", "distillation=hint", "epochs=4"]):
        assert Composer(str(own)).compose(words) == compose(*words)


def test_a_sweep_file_of_ones_own_makes_a_multirun(own, here):
    words = ("--config-dir", str(own), "experiment=pair", "sweep=row", "dry_run=true")
    code, shown = here(*words, columns=120)
    assert code == 0, shown.err
    assert "4 jobs, 7 distinct learners" in shown.out
    assert "2 jobs, 4 distinct learners" in here(*words, "seed=3", columns=120)[1].out


def test_an_unknown_row_is_refused(refused):
    shown = refused("experiment=simkd_resnet32x4_vgg8", "sweep=simkd_rov")
    assert "sweep='simkd_rov': no such option; did you mean simkd_row?" in shown


@pytest.mark.exhaustive
@pytest.mark.parametrize("experiment", [path.stem for path in sorted(Path(CONF / "experiment").glob("*_*_*.yaml"))])
def test_every_method_of_every_row_is_valid(experiment):
    protocol = compose_command([f"experiment={experiment}"]).choices.protocol
    if not protocol:
        pytest.skip("it has no protocol")
    composer = Composer()
    for method in set(swept(f"{protocol}_row")) & set(options("distillation")):
        assert validator.problems(composer.compose([f"experiment={experiment}", f"distillation={method}"])) == []
