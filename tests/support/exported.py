"""Exported files of every format that is installed here."""

import pytest

from kdexp.deployment.formats import FORMATS


def opened(name, path):
    if name == "onnx":
        pytest.importorskip("onnxruntime")
    return FORMATS[name].open(path)


def installed(name):
    return pytest.param(name, marks=pytest.mark.skipif(bool(FORMATS[name].missing()), reason=f"without the extra {name}"))


each_format = pytest.mark.parametrize("name", [installed(name) for name in FORMATS])
