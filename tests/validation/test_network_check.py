import pytest
from experiments import COMPOSER

from kdexp.data.shape import Shape
from kdexp.validation.networks import check_network, smallest_image
from kdexp.validation.nodes import check_node
from kdexp.validation.validator import validate

SHAPE = Shape(num_classes=10, in_channels=1, image_size=8)


def check(name, dataset=()):
    return check_network("student", {"_target_": f"own_networks.{name}"}, SHAPE, dict.fromkeys(dataset))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("AnswersWithDict", "student: answers with a dict, not with a tensor of logits [N, 10]"),
        ("AnswersWithMap", "student: answers with a tensor [N, 8, 8, 8], not with logits [N, 10]"),
        ("HundredClasses", "student: gives 100 logits per image, but the data have 10 classes"),
        ("NeedsTwelve", "student: NeedsTwelve needs images of at least 12×12, not 8×8; choose another network"),
        ("NeedsALicence", "student: no licence file"),
    ],
)
def test_a_network_that_can_not_be_used_is_refused_with_a_sentence(name, sentence):
    network, found = check(name)
    assert network is None
    assert [str(problem) for problem in found] == [sentence]


def test_another_size_is_suggested_for_images_of_any_size():
    _, (problem,) = check("NeedsTwelve", dataset=["image_size"])
    assert str(problem).endswith("; try dataset.image_size=12")


def test_the_networks_own_error_is_shown_if_no_size_helps():
    _, (problem,) = check("ColourOnly")
    assert str(problem).startswith("student: does not run on this data set's 1×8×8 images: ")
    assert smallest_image({"_target_": "own_networks.ColourOnly"}, SHAPE) is None


@pytest.mark.slow
def test_a_network_that_looks_at_values_is_checked_on_the_cpu():
    network, found = check("LooksAtValues")
    assert found == [] and next(network.parameters()).device.type == "cpu"
    own = ["~teacher.hidden", "~student.hidden", "student._target_=own_networks.LooksAtValues"]
    for method in ("kd", "hint"):
        command = [f"distillation={method}", "teacher._target_=own_networks.NormNet", *own]
        assert validate(COMPOSER.compose(command)) == []


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def net(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_a_module_that_can_not_be_imported_is_named_with_its_error(tmp_path, monkeypatch, capsys, module, why):
    (tmp_path / "broken.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = validate(COMPOSER.compose(["student._target_=broken.Net"]))
    assert str(problem) == f"student._target_='broken.Net': can't be imported ({why})"
    assert capsys.readouterr().err == ""


def test_a_misspelt_class_is_told_from_a_missing_module():
    (problem,) = check_node("student", {"_target_": "own_networks.NormNett"}, True)
    assert "module own_networks has no NormNett; did you mean NormNet?" in str(problem)
    (problem,) = check_node("student", {"_target_": "own_network.NormNet"}, True)
    assert str(problem).endswith("; Python looks next to the folder that --config-dir names and in PYTHONPATH")
