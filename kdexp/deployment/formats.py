"""The formats in which a trained network leaves: how each is written, opened again, and used elsewhere.

Torch is imported when a format is used, so that a command can be checked without it.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from kdexp.data.shape import Shape
    from kdexp.deployment.load import Predictor

Answers = Callable[["Tensor"], "Tensor"]
"""From images [N, C, H, W], float32 in 0..1, to logits [N, K]."""


@dataclass(frozen=True)
class Exportable:
    """A network to take away, and what is written down beside its weights: its `model` node, unless it is made of several."""

    predictor: Predictor
    shape: Shape
    about: dict[str, str]
    modules: tuple[str, ...] = ()
    """Of a user's own, that the network is in."""


class Format:
    """One format. `tolerance` is how far its logits may lie from ours, as a share of the largest logit of the same images."""

    suffix: str
    tolerance: float
    contents: str
    needs: tuple[str, ...] = ()
    """Packages that kdexp does without, all of them in the extra of the format's name."""

    def missing(self) -> list[str]:
        """What is not installed of `needs`."""
        return [name for name in self.needs if find_spec(name) is None]

    def write(self, student: Exportable, path: Path) -> None:
        """Writes the student; raises whatever the format's own writer does."""
        raise NotImplementedError

    def open(self, path: Path, modules: Sequence[str] = ()) -> Answers:
        """What the file computes, on the CPU, with as many threads as torch has, and nothing but the file to go by, and for
        networks that are no graphs, the user's own modules that they may be in.
        """
        raise NotImplementedError

    def usage(self, path: Path, modules: Sequence[str] = ()) -> str:
        """How to use the file, on one line."""
        raise NotImplementedError


class Safetensors(Format):
    """The network's own weights, under its own names, and as metadata how to build it: also a `student.checkpoint`."""

    suffix, tolerance = ".safetensors", 0.0
    contents = "the network's weights, which take normalised images, and how to build and normalise"

    def write(self, student, path):
        from safetensors.torch import save

        if "model" not in student.about:
            raise ValueError("it is made of several networks, which --format torch_export or onnx holds")
        weights = {name: value.contiguous().clone() for name, value in student.predictor.network.state_dict().items()}
        path.write_bytes(save(weights, student.about))

    def open(self, path, modules=()):
        from kdexp.deployment.load import load

        return load(path, modules=modules)

    def usage(self, path, modules=()):
        own = f", modules={json.dumps(modules)}" if modules else ""
        return f'kdexp.load("{path}"{own})(images); the file is also a student.checkpoint or teacher.checkpoint'


class TorchExport(Format):
    """A graph that PyTorch runs without the network's source, for any number of images."""

    suffix, tolerance = ".pt2", 1e-4
    contents = "images [N, {0}, {1}, {1}], float32 in 0..1, to logits; it normalises them itself"

    def write(self, student, path):
        import torch

        torch.export.save(traced(student), path, extra_files=student.about)

    def open(self, path, modules=()):
        import torch

        return torch.export.load(path).module()

    def usage(self, path, modules=()):
        return f'torch.export.load("{path}").module()(images)'


class Onnx(Format):
    """A graph that other runtimes run, for any number of images."""

    suffix, tolerance = ".onnx", 1e-4
    contents = TorchExport.contents
    needs = ("onnx", "onnxscript", "onnxruntime")

    def write(self, student, path):
        import torch

        with quiet():
            program = torch.onnx.export(
                traced(student),
                dynamo=True,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes={"image": {0: "batch"}},
                verbose=False,
            )
        assert program is not None  # as it is where the exporter writes no file itself
        program.model.metadata_props.update(student.about)
        program.save(path, external_data=False)

    def open(self, path, modules=()):
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    def usage(self, path, modules=()):
        return f'onnxruntime.InferenceSession("{path}").run(None, {{"image": images}})'


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the screen what exporters say of themselves; what they raise is heard."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def traced(student: Exportable) -> ExportedProgram:
    """The student's graph for any number of images; raises what torch does for a network that it can't follow."""
    import torch

    batch = {"image": {0: torch.export.Dim("batch")}}
    with torch.no_grad(), quiet():
        return torch.export.export(student.predictor, (student.shape.probe("cpu"),), dynamic_shapes=batch)


FORMATS: dict[str, Format] = {"safetensors": Safetensors(), "torch_export": TorchExport(), "onnx": Onnx()}
