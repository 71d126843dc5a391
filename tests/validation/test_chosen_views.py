"""Views that can't differ, don't go together or have no reader are refused; without a choice, keys stay what they were."""

import pytest
from experiments import COMPOSER

from kdexp.validation.validator import Validator

STAGED = ("teacher=resnet14", "student=resnet8")
CROPS = "dataset.crop_padding=1"


def problems(*words):
    return [str(problem) for problem in Validator().problems(COMPOSER.compose(words))]


REFUSED = [
    (
        ["views=fixed"],
        "distillation.teacher_view='plain': is the same as 'weak', since nothing is augmented; dataset.crop_padding=1",
    ),
    (["distillation.student_view=weak2"], "distillation.student_view='weak2': is the same as 'weak'"),
    (["distillation.student_view=mixed"], "distillation.teacher_view='weak': one network reads mixed images"),
    (
        ["distillation=function_matching", "distillation.student_view=weak"],
        "distillation.student_view='weak': one network reads",
    ),
    (["distillation.teacher_view=palin"], "must be one of plain, weak, weak2, strong, strong2, mixed (or null)"),
    (
        ["distillation=mutual", "views=fixed", CROPS],
        "distillation.teacher_view='plain': only methods with a teacher choose views",
    ),
    (["distillation=none", "views=mixup"], "distillation.student_view='mixed': only methods with a teacher choose views"),
    (["distillation=dkd", "views=mixup"], "this method's own term takes one"),
    (
        ["distillation=pi_model", "dataset.labels=40", "dataset.student_fraction=1"],
        "distillation: compares two weak views of an image, which are the same, since nothing is augmented",
    ),
    (
        [*STAGED, "distillation=sum", "+distillation@distillation.methods.crd=crd", "views=mixup"],
        "this method's own term takes one",
    ),
    (
        [*STAGED, "distillation=sum", "+distillation.methods.rkd.student_view=mixed"],
        "all methods of a sum read the same views; set distillation.student_view",
    ),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_views_that_make_no_sense_are_refused(words, sentence):
    assert any(sentence in problem for problem in problems(*words)), problems(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["views=fixed", CROPS],
        ["views=independent", "dataset.resized_crop=[0.4,1.0]"],
        ["views=fixed", "dataset.flip=true"],
        ["views=mixup"],
        ["distillation=function_matching"],
        ["distillation=function_matching", "views=fixed", CROPS],
        ["distillation=none", "views=same"],
        [*STAGED, "distillation=hint", "views=mixup"],
        ["distillation=pi_model", "dataset.labels=40", "dataset.student_fraction=1", CROPS],
        ["distillation=mean_teacher", "averaging=ema", "dataset.labels=40", "dataset.student_fraction=1"],
    ],
    ids=" ".join,
)
def test_views_that_make_sense_are_accepted(words):
    assert problems(*words) == []


@pytest.mark.parametrize("area", ["[1.0]", "[0.0,1.0]", "[0.8,0.4]"])
def test_bad_crops_are_refused_for_every_set(area):
    assert any(
        "dataset.resized_crop=" in problem and "[smallest, largest]" in problem
        for problem in problems(f"dataset.resized_crop={area}")
    )


def test_crops_of_both_kinds_are_refused():
    assert any("dataset.crop_padding=1: must be 0" in problem for problem in problems(CROPS, "dataset.resized_crop=[0.4,1.0]"))


def test_a_learner_without_a_choice_of_views_has_the_spec_it_had_before(make_experiment):
    usual = make_experiment(CROPS).spec("distilled")
    assert not {"student_view", "teacher_view"} & usual.method.keys() and "resized_crop" not in usual.data
    assert make_experiment(CROPS, "views=same").spec("distilled").key == usual.key
    assert make_experiment(CROPS, "distillation.student_view=weak").spec("distilled").key == usual.key
    keys = {make_experiment(CROPS, f"views={mode}").spec("distilled").key for mode in ("fixed", "independent", "same", "mixup")}
    assert len(keys) == 4
    matching = [
        make_experiment("distillation=function_matching", *words).spec("distilled").key for words in ([], ["views=mixup"])
    ]
    assert len(set(matching)) == 1
    baselines = {make_experiment(CROPS, f"views={mode}").spec("baseline").key for mode in ("fixed", "mixup")}
    assert len(baselines) == 1


def test_the_table_names_the_views_that_were_chosen(make_experiment):
    names = {mode: make_experiment(CROPS, f"views={mode}").entry("distilled").method for mode in ("same", "fixed", "mixup")}
    assert names["same"] == "0.1 CE + 0.9 KD, T=4"
    assert (
        names["fixed"] == f"{names['same']}, student weak, teacher plain" and names["mixup"] == f"{names['same']}, views mixed"
    )
