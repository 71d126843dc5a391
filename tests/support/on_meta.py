"""Trainings on PyTorch's meta device, whose tensors have no values: reading one or mixing devices raises."""

import weakref
from contextlib import nullcontext
from importlib import import_module

import torch
import torch._refs
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdexp.data.few_labels import FewLabels
from kdexp.data.images import RawImages
from kdexp.data.split import Split
from kdexp.device.precision import Precision
from kdexp.network.build import build_network
from kdexp.training.prepare import prepare

META = torch.device("meta")
KERNELS = torch.library.Library("aten", "IMPL")
for step in ("_fused_adam_.tensor_lr", "_fused_adamw_.tensor_lr", "_fused_sgd_", "_fused_sgd_.tensor_lr"):
    KERNELS.impl(step, lambda *args, **kwargs: None, "Meta", allow_override=True)


# PyTorch decomposes batch norms on the meta device into many operators written in Python, 7 ms each time.
def _batch_norm(values, weight, *_):
    return torch.empty_like(values), *(values.new_empty(values.shape[1]) for _ in range(2))


def _batch_norm_backward(grad, values, weight, mean, var, saved_mean, saved_invstd, train, eps, mask):
    return tuple(torch.empty_like(of) if wanted else None for of, wanted in zip((values, weight, weight), mask, strict=True))


# Element-wise ones it decomposes likewise, half a millisecond each; what is not as usual is left to these decompositions.
def _rectified(values):
    return torch.empty_like(values)


def _rectified_backward(grad, values, threshold):
    whole = grad.is_meta and values.is_meta and grad.shape == values.shape
    return torch.empty_like(values) if whole else BACKWARD(grad, values, threshold)


def _elementwise(decomposed):
    def kernel(one, other, **scale):
        return torch.empty_like(one) if _alike(one, other) else decomposed(one, other, **scale)

    return kernel


def _alike(one, other):
    """Whether these are two tensors of one shape, type and layout on the meta device."""
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.is_meta and other.is_meta):
        return False
    return one.dtype == other.dtype and one.shape == other.shape and one.stride() == other.stride()


BACKWARD = get_decompositions([torch.ops.aten.threshold_backward])[torch.ops.aten.threshold_backward.default]
KERNELS.impl("relu", _rectified, "Meta", allow_override=True)
KERNELS.impl("threshold_backward", _rectified_backward, "Meta", allow_override=True)
KERNELS.impl("add.Tensor", _elementwise(torch._refs.add), "Meta", allow_override=True)
KERNELS.impl("mul.Tensor", _elementwise(torch._refs.mul), "Meta", allow_override=True)
KERNELS.impl("native_batch_norm", _batch_norm, "Meta", allow_override=True)
KERNELS.impl("native_batch_norm_backward", _batch_norm_backward, "Meta", allow_override=True)
KERNELS.impl("_sample_dirichlet", lambda values, generator=None: torch.empty_like(values), "Meta", allow_override=True)


def let_meta_train(monkeypatch):
    """Gives the meta device fused optimizers and copies to the host; lists the shapes of these copies."""
    copies = []

    def cpu(tensor):
        copies.append(tuple(tensor.shape))
        return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor

    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    optimizers = import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["meta", "cpu"])
    monkeypatch.setattr(Precision, "autocast", lambda self: nullcontext())
    return copies


def images_of(shape, count, device=META):
    """Meaningless images of that shape, with labels in turn."""
    pixels = torch.empty(count, shape.in_channels, shape.image_size, shape.image_size, dtype=torch.uint8, device=device)
    return RawImages(pixels, torch.arange(count) % shape.num_classes)


def prepared_from(experiment, entries, raw, precision):
    """Learners for these entries, their teacher and their training images, without a store."""
    split = Split(raw, experiment.dataset, precision.device, augmented=True, memory_format=precision.memory_format)
    labels = raw.labels
    if experiment.dataset.labels is not None:
        split = FewLabels(split, torch.arange(experiment.dataset.labels))
        labels = labels[: experiment.dataset.labels]
    taught = any(entry.spec.teacher for entry in entries)
    network = build_network(experiment.spec("teacher").model, experiment.shape) if taught else None
    return *prepare(entries, network, experiment.shape, precision, labels, split.unlabelled_images), split


def prepared_on_meta(experiment, roles, count, **ways):
    """The same for roles, on images without values."""
    entries = [experiment.entry(role) for role in roles]
    return prepared_from(experiment, entries, images_of(experiment.shape, count), Precision("fp32", META, **ways))


class Peak(TorchDispatchMode):
    """Measures the peak memory that the tensors made inside it would take if they had values."""

    def __init__(self):
        super().__init__()
        self.bytes = self.most = 0
        self._living = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.is_meta:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._living:
            return

        def forget(_):
            self.bytes -= size
            del self._living[key]

        self._living[key] = weakref.ref(storage, forget)
        self.bytes += size
        self.most = max(self.most, self.bytes)
