"""The published tables by name: their protocols, pairs, recipes and sweeps."""

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import yaml
from experiments import compose_command
from hydra.types import RunMode
from omegaconf import OmegaConf
from shipped import CONF, options

from kdexp.commands.command import swept_in_files
from kdexp.configuration.compose import Composer
from kdexp.configuration.jobs import expand
from kdexp.validation.validator import Validator

pytestmark = pytest.mark.slow

validator = Validator()
"""One for all, as for the jobs of a sweep: each network is looked at once."""

SLOW_STUDENTS = ("mobilenetv2", "shufflenet")


@pytest.fixture(scope="module")
def composed():
    """Every pair of the tables by name: the experiments named after their protocol that have published numbers."""
    configs = {name: compose_command([f"experiment={name}"]) for name in options("experiment")}
    named = {name: config for name, config in configs.items() if name.startswith(f"{config.choices.protocol}_")}
    return {name: config for name, config in named.items() if config.published}


def jobs_of(*words: str) -> list[list[str]]:
    """The jobs that the command line makes of a sweep file."""
    node = Composer().hydra(words)
    assert node.mode == RunMode.MULTIRUN
    return expand([*swept_in_files(node, words), *words])


@cache
def swept(row: str) -> list[str]:
    """The methods of a row's sweep file."""
    return Composer().hydra([f"sweep={row}"]).sweeper.params.distillation.split(",")


def test_every_pair_of_the_tables_is_there():
    pairs = options("experiment")
    assert sum(name.startswith("crd_") for name in pairs) == 7 + 6
    assert sum(name.startswith("simkd_") for name in pairs) == 7
    assert sum(name.startswith("kim2021_") for name in pairs) == 2 + 2


def test_a_pairs_name_has_protocol_teacher_and_student_and_its_file_the_command(composed):
    for name, config in composed.items():
        choices = config.choices
        assert name.startswith(f"{choices.protocol}_") and name.endswith(f"{choices.teacher}_{choices.student}")
        text = (CONF / "experiment" / f"{name}.yaml").read_text()
        assert f"#   kdexp experiment={name} dataset.root=FOLDER sweep={choices.protocol}_row\n" in text
        assert re.search("not (been )?measured", text.lower())


def test_the_protocol_matches_the_source(composed):
    sgd = {"_target_": "kdexp.training.optimization.SGD", "momentum": 0.9, "weight_decay": 0.0005, "clip_norm": None}
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
def test_method_weights_match_the_source(words, weights):
    node = compose_command(words).distillation
    assert (node.temperature, node.alpha, node.ce_weight, node.kd_weight) == weights


def test_an_assistant_teacher_learns_from_the_largest_network():
    for middle, weights in (("", (3.0, 0.0)), ("mse_", (1.0, None))):
        config = compose_command([f"experiment=kim2021_wrn_28_4_{middle}wrn_16_4_wrn_16_2"])
        assert (config.teacher.depth, config.teacher.teacher.depth) == (16, 28)
        node = config.teacher.distillation
        assert (node.temperature, node.alpha) == weights
        assert validator.problems(config) == []


def test_published_numbers_of_one_network_agree_within_a_protocol(composed):
    found = defaultdict(set)
    for config in composed.values():
        for role in ("teacher", "baseline"):
            network = config.choices["teacher" if role == "teacher" else "student"]
            if role == "baseline" or "teacher" not in config.teacher:  # one that is distilled itself has another
                found[config.choices.protocol, role, network].add(str(config.published[role]))
    assert {key: numbers for key, numbers in found.items() if len(numbers) > 1} == {}


def test_a_row_has_exactly_the_methods_with_a_published_number(composed):
    for name, config in composed.items():
        row = f"{config.choices.protocol}_row"
        own = CONF / "recipe" / "row" / f"{row}_{name}.yaml"
        methods = yaml.safe_load(own.read_text())["distillation"].split(",") if own.exists() else swept(row)
        assert set(config.published.distilled) == set(methods), name


@pytest.mark.parametrize("name", [path.stem for path in sorted((CONF / "recipe" / "row").glob("*.yaml"))])
def test_a_pairs_own_row_replaces_the_protocols_row(name):
    row, _, pair = name.partition("_row_")
    methods = yaml.safe_load((CONF / "recipe" / "row" / f"{name}.yaml").read_text())["distillation"]
    words = [f"experiment={pair}", f"sweep={row}_row"]
    assert Composer().hydra(words).sweeper.params == {"distillation": methods, "seed": "0,1,2"}
    assert len(jobs_of(*words)) == 3 * len(methods.split(","))


OF_THE_PAIR = {"dkd": "nontarget_weight", "reviewkd": "weight"}
"""Settings that the authors of a method chose for each pair."""
CHOSEN = {
    # The files in configs/cifar100/dkd of the code of Zhao et al. 2022; 8 where they leave the code's own value.
    "dkd": {
        "resnet56_resnet20": 2,
        "resnet110_resnet32": 2,
        "resnet32x4_resnet8x4": 8,
        "wrn_40_2_wrn_16_2": 6,
        "wrn_40_2_wrn_40_1": 6,
        "vgg13_vgg8": 6,
        "resnet32x4_shufflenetv1": 8,
        "resnet32x4_shufflenetv2": 8,
        "wrn_40_2_shufflenetv1": 8,
        "vgg13_mobilenetv2_half": 6,
        "resnet50_cifar_mobilenetv2_half": 8,
    },
    # The script of the code of Chen et al. 2021.
    "reviewkd": {
        "resnet56_resnet20": 0.6,
        "resnet110_resnet32": 1,
        "resnet32x4_resnet8x4": 5,
        "wrn_40_2_wrn_16_2": 5,
        "wrn_40_2_wrn_40_1": 5,
        "resnet32x4_shufflenetv1": 5,
        "resnet32x4_shufflenetv2": 8,
        "wrn_40_2_shufflenetv1": 5,
    },
}


@pytest.mark.parametrize("method", OF_THE_PAIR)
def test_weights_chosen_per_pair_are_used_and_default_weights_are_declared(method, composed):
    setting, default = OF_THE_PAIR[method], yaml.safe_load((CONF / "distillation" / f"{method}.yaml").read_text())
    for name, config in composed.items():
        if config.choices.protocol == "crd":
            recipe = CONF / "recipe" / f"{name}_{method}.yaml"
            given = yaml.safe_load(recipe.read_text())["distillation"] if recipe.exists() else {}
            sourced = CHOSEN[method].get(name.removeprefix("crd_"))
            declared = (config.published.get("unsourced") or {}).get(method)
            assert (default | given)[setting] == (sourced or default[setting]), name
            assert declared == (None if sourced else [setting]), name
            assert sourced or not recipe.exists(), name


def test_teachers_chosen_by_test_accuracy_are_declared(composed):
    for name, config in composed.items():
        if config.choices.protocol == "simkd":
            assert "students and teachers are those of the best test epoch, here of the last" in config.published.metric, name


SLOW = ("mobilenetv2", "mobilenetv2_half", "shufflenetv1", "shufflenetv2", "shufflenetv2_1_5")


@pytest.mark.parametrize("student", [*SLOW, "resnet8x4", "torchvision"])
def test_students_and_teachers_start_at_the_sources_learning_rates(student):
    rate = 0.01 if student in SLOW else 0.05
    for protocol in ("crd", "simkd"):
        composed = compose_command([f"protocol={protocol}", f"student={student}", f"teacher={student}"])
        assert (composed.optimizer.lr, composed.teacher_optimizer.lr) == (rate, 0.05)


@pytest.mark.exhaustive
@pytest.mark.parametrize("student", options("student"))
def test_every_student_starts_at_the_sources_learning_rate(student):
    assert compose_command(["protocol=crd", f"student={student}"]).optimizer.lr == (0.01 if student in SLOW else 0.05)


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        (["protocol=crd", "student=shufflenetv1", "optimizer.lr=0.3"], 0.3),
        (["protocol=crd", "student=shufflenetv1", "optimizer=adam"], 0.001),
        (["protocol=crd", "student=shufflenetv1", "schedule=cosine"], 0.01),
        (["protocol=kim2021", "student=shufflenetv1"], 0.1),
        (["optimizer=sgd", "student=shufflenetv1"], 0.05),
        (["experiment=simkd_resnet32x4_shufflenetv2", "student=vgg8"], 0.05),
        (["experiment=crd_vgg13_vgg8", "student=mobilenetv2"], 0.01),
        (["experiment=crd_vgg13_mobilenetv2_half", "optimizer.lr=0.02"], 0.02),
    ],
)
def test_the_sources_learning_rate_holds_for_its_students_and_optimizer_unless_one_is_set(words, rate):
    assert compose_command(words).optimizer.lr == Composer().compose(words)["optimizer"]["lr"] == rate


@pytest.mark.parametrize(
    ("experiment", "row", "count"),
    [
        ("crd_vgg13_vgg8", "crd_row", 8 * 3),
        ("simkd_resnet32x4_resnet8x4", "simkd_row", 9 * 3),
        ("kim2021_wrn_28_4_wrn_16_2", "kim2021_row", 4 * 3),
        ("cifar10_tutorial", "pytorch_tutorial_row", 3),
    ],
)
def test_a_sweep_file_expands_to_the_row(experiment, row, count):
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


def test_the_command_line_overrides_an_axis_of_a_sweep_file():
    words = ("experiment=kim2021_wrn_16_4_wrn_16_2", "sweep=kim2021_row", "seed=5", "distillation=kd")
    assert jobs_of(*words) == [[f"protocol={name}", *words] for name in ("kim2021", "kim2021_t20")]


def test_jobs_without_a_temperature_are_shared_by_both_temperatures():
    pair = "experiment=kim2021_wrn_16_4_wrn_16_2"
    ours, theirs = (
        compose_command([pair, f"protocol={name}", "distillation=mse_logits"]) for name in ("kim2021", "kim2021_t20")
    )
    for config in (ours, theirs):
        OmegaConf.update(config, "choices", None)
    assert ours == theirs


@pytest.fixture
def own(tmp_path):
    """A user's folder with a protocol, a pair, recipes for both, and a row."""
    folder = tmp_path / "own"
    files = {
        "protocol/paper": "epochs: 3\nbatch_size: 16\ndistillation: {temperature: 9.0}",
        "experiment/pair": "defaults:\n  - override /protocol: paper\nbatch_size: 8",
        "recipe/paper_kd": "distillation: {temperature: 2.0, alpha: 0.5}",
        "recipe/pair_kd": "distillation: {temperature: 3.0}",
        "recipe/learning_rate/paper_adam_mlp_small": "lr: 0.007",
        "recipe/row/row_other": "distillation: kd",
        "experiment/other": "defaults:\n  - pair\noptimizer: {lr: 0.008}",
        "sweep/row": "hydra: {mode: MULTIRUN, sweeper: {params: {distillation: 'kd,hint', seed: '0,1'}}}",
    }
    for name, text in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        package = "" if name.startswith(("recipe/learning_rate", "recipe/row")) else "# @package _global_\n"
        path.write_text(f"{package}{text}\n")
    return folder


def test_a_pair_overrides_its_protocol_and_a_recipe_overrides_both(own):
    def compose(*words):
        return compose_command(words, config_dir=str(own))

    pair = compose("experiment=pair")
    assert (pair.epochs, pair.batch_size) == (3, 8)
    assert (pair.distillation.temperature, pair.distillation.alpha) == (3.0, 0.5)
    assert compose("protocol=paper").distillation.temperature == 2.0
    assert (pair.optimizer.lr, pair.teacher_optimizer.lr) == (0.007, 0.001)
    assert compose("experiment=other").optimizer.lr == 0.008
    assert compose("experiment=pair", "distillation=hint").distillation.temperature == 9.0
    assert compose("experiment=pair", "distillation.temperature=7").distillation.temperature == 7
    for words in (["experiment=pair"], ["experiment=pair", "sweep=row", "distillation=hint", "epochs=4"]):
        assert Composer(str(own)).compose(words) == compose(*words)


def test_a_users_own_sweep_file_makes_a_multirun(own, here):
    words = ("--config-dir", str(own), "experiment=pair", "sweep=row", "dry_run=true")
    code, shown = here(*words, columns=120)
    assert code == 0, shown.err
    assert "4 jobs, 7 distinct learners" in shown.out
    assert "2 jobs, 4 distinct learners" in here(*words, "seed=3", columns=120)[1].out
    assert "2 jobs, 5 distinct learners" in here(*words, "experiment=other", columns=120)[1].out


def test_an_unknown_row_is_refused(refused):
    shown = refused("experiment=simkd_resnet32x4_vgg8", "sweep=simkd_rov")
    assert "sweep='simkd_rov': no such option; did you mean simkd_row?" in shown


@pytest.mark.exhaustive
@pytest.mark.parametrize("experiment", [path.stem for path in sorted(Path(CONF / "experiment").glob("*_*_*.yaml"))])
def test_every_method_of_every_row_is_valid(experiment):
    protocol = compose_command([f"experiment={experiment}"]).choices.protocol
    if f"{protocol}_row" not in options("sweep"):
        pytest.skip("it has no row")
    composer = Composer()
    for method in set(swept(f"{protocol}_row")) & set(options("distillation")):
        assert validator.problems(composer.compose([f"experiment={experiment}", f"distillation={method}"])) == []
