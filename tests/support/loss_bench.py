"""Sets up methods on crafted outputs, for tests of their losses."""

import numpy as np
import torch
from experiments import compose_command
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from kdexp.data.batch import Batch
from kdexp.data.shape import Shape
from kdexp.distillation.base import Probe, Progress
from kdexp.network.build import on_meta
from kdexp.network.capture import Capture, Outputs
from kdexp.network.landmarks import Landmarks

START = Progress(epoch=0.0, epochs=1, step=0)
WEIGHTS = {"temperature": 1.0, "alpha": None, "ce_weight": None, "kd_weight": None}
LAYERS = {"weight": 1.0, "student_layers": ["ours"], "teacher_layers": ["theirs"]}

few = settings(max_examples=25, deadline=None)
temperatures = st.floats(0.5, 20)
shapes = st.tuples(st.integers(1, 4), st.integers(2, 5))


def pairs_within(bound):
    """Float64 logits [2, N, K] of a student and a teacher, stacked."""
    return shapes.flatmap(lambda shape: arrays(np.float64, (2, *shape), elements=st.floats(-bound, bound, width=32)))


def halves(*shape):
    """Float64 values that are never 0, so that every vector has a direction."""
    return arrays(np.int64, shape, elements=st.integers(-5, 5)).map(lambda values: torch.from_numpy(values + 0.5))


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def batch_of(labels):
    return Batch(torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), torch.arange(len(labels)))


def probe(student, teacher=None, labels=(0, 1, 2), batch_size=4, classify=None):
    """Returns the probe of these outputs."""
    classes = student.logits.shape[1]
    return Probe(student, teacher, torch.tensor(labels), batch_size, Shape(classes, 1, 8), classify)


class WithLandmarks(nn.Identity):
    """A network whose classifier is known."""

    landmarks = Landmarks(classifier="fc", last_map="last")


def feature_method(method, ours, theirs, **changed):
    """Returns the method, set up for one pair of features, and the outputs that hold them (with zero logits)."""
    made = method(**WEIGHTS | LAYERS | changed)
    made.layers(WithLandmarks(), nn.Identity())
    logits = torch.zeros(len(ours), 3, dtype=ours.dtype)
    student, teacher = Outputs(logits, {"ours": ours}), Outputs(logits, {"theirs": theirs})
    made.setup(probe(student, teacher, batch_size=len(ours)))
    return made.to(ours.dtype), student, teacher


def own_term(method, student, teacher):
    """Returns the method's only own term, before its weight."""
    (term,) = method.transfer(batch_of([0] * len(student.logits)), student, teacher, START).values()
    return term


def between(method, student, teacher, image_size=32, **changed):
    """Returns the method, set up for two networks of `conf/model` at 100 classes on the meta device."""
    made = method(**WEIGHTS | LAYERS | {"student_layers": None, "teacher_layers": None} | changed)
    shape = Shape(100, 3, image_size)
    nets = [on_meta(compose_command([f"student={name}"]).student, shape) for name in (student, teacher)]
    layers = made.layers(*nets)
    outputs = [Capture(net, names, shape.probe("meta")).probe for net, names in zip(nets, layers, strict=True)]
    made.setup(probe(*outputs))
    return made


def parameter_count(module):
    return sum(parameter.numel() for parameter in module.parameters())
