"""The export formats: how each is written, reopened and used.

Torch is imported only when a format is used, so that a command can be checked without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.deployment.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from kdexp.data.shape import Shape
    from kdexp.deployment.predictor import Predictor

Predict = Callable[["Tensor"], "Tensor"]
"""A function from images [N, C, H, W], float32 in 0..1, to logits [N, K]."""


@dataclass(frozen=True)
class Exportable:
    """A network to export with the metadata of its file: the `model` node, unless it is made of several, and the data's."""

    predictor: Predictor
    shape: Shape
    metadata: dict[str, Any]
    modules: tuple[str, ...] = ()
    """The user's modules that define the network."""

    def texts(self, *, normalises: bool) -> dict[str, str]:
        """The metadata as texts, JSON except for those that are texts already.

        `preprocessing` says with `normalise` whether images must also be normalised by `mean` and `std`: not if the file
        `normalises` them itself.
        """
        steps = {**self.predictor.preprocessing.described(), "normalise": not normalises}
        values = {**self.metadata, "preprocessing": steps}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


class Format:
    """An export format. `tolerance` is the largest allowed difference of logits, relative to the largest logit of the batch."""

    suffix: str
    tolerance: float
    contents: str
    needs: tuple[str, ...] = ()
    """Packages that only this format needs; the extra with the format's name installs them."""

    def missing(self) -> list[str]:
        """Returns the packages in `needs` that are not installed."""
        return [name for name in self.needs if find_spec(name) is None]

    def write(self, student: Exportable, path: Path) -> None:
        """Writes the student; raises the errors of the format's own writer."""
        raise NotImplementedError

    def open(self, path: Path, modules: Sequence[str] = ()) -> Predict:
        """Opens the file for predictions on the CPU with torch's number of threads.

        Formats that are not graphs import the network's class, which may be in one of the user's `modules`.
        """
        raise NotImplementedError

    def usage(self, path: Path, modules: Sequence[str] = ()) -> str:
        """Returns one line on how to use the file."""
        raise NotImplementedError


class Safetensors(Format):
    """The network's weights under its own names, with metadata on how to build it; also usable as a checkpoint."""

    suffix, tolerance = ".safetensors", 0.0
    contents = "the network's weights (for normalised images), and how to build it and to normalise"

    def write(self, student, path):
        from safetensors.torch import save

        if "model" not in student.metadata:
            raise ValueError("it is made of several networks; use --format torch_export or onnx")
        weights = {name: value.contiguous().clone() for name, value in student.predictor.network.state_dict().items()}
        path.write_bytes(save(weights, student.texts(normalises=False)))

    def open(self, path, modules=()):
        from kdexp.deployment.load import load

        return load(path, modules=modules)

    def usage(self, path, modules=()):
        own = f", modules={json.dumps(modules)}" if modules else ""
        return f'kdexp.load("{path}"{own})(images); the file is also a student.checkpoint or teacher.checkpoint'


class TorchExport(Format):
    """A graph that PyTorch runs without the network's source, for any number of images."""

    suffix, tolerance = ".pt2", 1e-4
    contents = "from images [N, {0}, {1}, {1}] of any batch size N, float32 from 0 to 1, to logits; normalisation is included"

    def write(self, student, path):
        import torch

        torch.export.save(traced(student), path, extra_files=student.texts(normalises=True))

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
        assert program is not None  # it is None only if the exporter writes the file itself
        program.model.metadata_props.update(student.texts(normalises=True))
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


def traced(student: Exportable) -> ExportedProgram:
    """Traces the student for any number of images; raises torch's errors for a network that can't be traced."""
    import torch

    batch = {"image": {0: torch.export.Dim("batch")}}
    with torch.no_grad(), quiet():
        return torch.export.export(student.predictor, (student.shape.probe("cpu"),), dynamic_shapes=batch)


FORMATS: dict[str, Format] = {"safetensors": Safetensors(), "torch_export": TorchExport(), "onnx": Onnx()}
