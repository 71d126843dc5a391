"""Which warnings are errors in tests."""

import warnings

import pytest

FROM_CPP = "grad and param do not obey the gradient layout contract.\nstrides (Triggered internally at reducer.cpp:327.)"


def warn(text, module):
    warnings.warn_explicit(text, UserWarning, "here.py", 1, module=module, registry={})


OF_TORCH = [("the capture is empty", "torch.cuda.graphs"), ("no tensor cores", "torch"), (FROM_CPP, "kdexp.training.learner")]
OTHERS = [("deprecated", "kdexp.training.learner"), ("deprecated", "torchvision.transforms")]


@pytest.mark.gpu  # it needs none
@pytest.mark.parametrize(("text", "module"), OF_TORCH)
def test_pytorchs_own_warnings_are_no_errors_where_there_is_a_gpu(text, module):
    with pytest.warns(UserWarning):
        warn(text, module)
    warn(text, module)


@pytest.mark.gpu
@pytest.mark.parametrize(("text", "module"), OTHERS)
def test_other_warnings_are_errors_there_too(text, module):
    with pytest.raises(UserWarning, match=text):
        warn(text, module)


@pytest.mark.parametrize(("text", "module"), OF_TORCH + OTHERS)
def test_all_warnings_are_errors_elsewhere(text, module):
    with pytest.raises(UserWarning):
        warn(text, module)
