"""A teacher that the command names is refused where no method of its jobs asks it."""

import pytest
from experiments import compose_command

from kdexp.validation.unasked import unasked_teacher

FEW = ("dataset.labels=40", "dataset.student_fraction=1")


def problems(*jobs):
    return [str(problem) for problem in unasked_teacher(jobs, [compose_command([*job, *FEW]) for job in jobs])]


@pytest.mark.parametrize(
    "jobs",
    [
        [("distillation=fixmatch", "teacher=resnet8")],
        [("distillation=fixmatch", "teacher=resnet8"), ("distillation=mpl", "teacher=resnet8")],
    ],
)
def test_refused_with_the_way_out(jobs):
    expected = "teacher='resnet8': fixmatch learns from images without labels, and asks no teacher; teacher=null"
    assert problems(*jobs) == [expected]


@pytest.mark.parametrize(
    "jobs",
    [
        [("distillation=fixmatch",)],  # the default one is a row of the table
        [("distillation=fixmatch", "~teacher")],
        [("distillation=fixmatch", "teacher=resnet8"), ("distillation=kd", "teacher=resnet8")],
        [("distillation=none", "teacher=resnet8")],
        [("distillation=mutual", "teacher=resnet8")],
        [("distillation=mpl", "teacher=resnet8", "distillation.teacher=${teacher}")],
    ],
)
def test_a_teacher_that_has_a_use_stays(jobs):
    assert problems(*jobs) == []
