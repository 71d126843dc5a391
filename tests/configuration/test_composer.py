"""The composer of sweeps against Hydra itself."""

import time

import pytest
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdexp.configuration import compose, repository
from kdexp.configuration.compose import Composer, compose_command, compose_whole

JOBS = [
    [],
    ["seed=3"],
    ["distillation.temperature=2", "distillation.alpha=0.5", "seed=1"],
    ["distillation=hint", "distillation.weight=2", "distillation.student_layers=[features]"],
    ["distillation.weight=2", "distillation=hint"],
    ["epochs=7"],
    ["experiment=cifar10_tutorial", "distillation=kd", "distillation.temperature=8"],
    ["~teacher", "distillation=none", "epochs=2"],
    ["teacher=deepnn", "student=lightnn", "student.dropout=0.3", "optimizer=sgd", "optimizer.lr=0.2"],
    ["optimizer@teacher_optimizer=sgd", "teacher_optimizer.lr=0.3"],
    ["dataset.mean=[0.1]", "store='a b'", "teacher_seed=${seed}", "seed=4"],
    ["distillation.alpha=null", "distillation.ce_weight=1"],
    ["+student.extra=1", "output_dir=elsewhere"],
    ["++student.extra=1", "++seed=2"],
]


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_composes_what_hydra_composes(job):
    composer = Composer()
    composer.compose(["seed=9", "distillation.temperature=9"])
    assert composer.compose(job) == compose_command(job)
    assert composer.compose(job) == compose_command(job), "the second time too"


@pytest.mark.slow
@pytest.mark.parametrize("job", [JOBS[number] for number in (0, 3, 6, 7, 9)], ids=" ".join)
def test_what_is_remembered_of_files_composes_what_hydra_reads(job, monkeypatch):
    compose_whole(["distillation=crd", "experiment=cifar10_tutorial"])  # whose options the next ones share
    remembered = [compose_whole(job), compose_whole(job)]
    OmegaConf.update(remembered.pop(), "distillation.temperature", 99)
    remembered.append(compose_whole(job))
    with monkeypatch.context() as plain:
        plain.setattr(compose, "RememberedOptions", ConfigRepository)
        plain.setattr(defaults_list, "_create_interpolation_map", repository._choices_so_far)
        expected = OmegaConf.to_yaml(compose_whole(job))
    assert [OmegaConf.to_yaml(composed) for composed in remembered] == [expected, expected]


@pytest.mark.slow
def test_an_edited_option_of_ones_own_is_read_anew(tmp_path):
    (tmp_path / "student").mkdir()
    for hidden in (8, 9):  # as many bytes, perhaps in the same second
        (tmp_path / "student" / "tiny.yaml").write_text(f"_target_: kdexp.models.mlp.MLP\nhidden: [{hidden}]\n")
        assert compose_command(["student=tiny"], config_dir=str(tmp_path)).student.hidden == [hidden]


@pytest.mark.slow
@pytest.mark.parametrize("job", [["temprature=2"], ["distillation.weight=2"], ["distillation=kdd"], ["seed=[1"], ["seed"]])
def test_refuses_what_hydra_refuses(job):
    for composing in (Composer().compose, compose_command):
        with pytest.raises((HydraException, OmegaConfBaseException)):
            composing(job)


@pytest.mark.slow
def test_own_folders_are_known(tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "tiny.yaml").write_text("_target_: kdexp.models.mlp.MLP\nhidden: [8]\ncheckpoint: null\n")
    job = ["student=tiny", "student.hidden=[9]"]
    assert Composer(str(tmp_path)).compose(job) == compose_command(job, config_dir=str(tmp_path))


@pytest.mark.slow
def test_a_hundred_jobs_that_differ_in_values_are_quick():
    composer = Composer()
    composer.compose([])
    begin = time.process_time()
    for seed in range(100):
        composer.compose([f"seed={seed}", "distillation.temperature=2"])
    assert time.process_time() - begin < 3, "a loose floor: a hundredth of that each where nothing else runs"
