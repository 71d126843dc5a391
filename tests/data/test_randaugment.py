"""RandAugment in bulk: Pillow's results bit for bit, the lists of the papers, the same draws for everyone, and its speed."""

import pytest
import torch
import yaml
from by_pillow import as_image, as_tensor, even_cutout, inclusive_cutout, operated
from experiments import compose_command
from hypothesis import given, settings
from hypothesis import strategies as st
from randaugment import compare
from shipped import CONF, options

from kdexp.configuration.nodes import build
from kdexp.data.randaugment import steps
from kdexp.data.randaugment.magnitudes import LIMITS
from kdexp.data.randaugment.operations import COLUMNS, Operations
from kdexp.data.randaugment.policy import RandAugment
from kdexp.data.randaugment.steps import BLENDS, NAMES, NUMBERS
from kdexp.errors import InvalidArguments

FILL, GREY_FILL = (200, 30, 90), 88  # 88: their luminance
ALONE = [name for name in NAMES if name != "cutout"]
GIVEN = {
    "draws": 2,
    "probability": [0.5, 0.5],
    "operations": {"invert": None, "rotate": {"values": [10, 20], "signed": True}},
    "cutout": None,
    "fill": [0],
    "cutout_fill": [0],
    "cutout_inclusive": False,
    "before_crop": False,
}


@pytest.fixture(params=["rows by operation", "fixed shapes"])
def way(request, monkeypatch):
    """The CPU's way of computing, then that of a GPU."""
    monkeypatch.setattr(steps, "fixed_shapes", lambda device: request.param == "fixed shapes")


def images(seed, count, channels, height, width):
    """Random images with histograms of all kinds: flat ones, of few values, of a narrow range, of all values."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, channels, height, width), generator=generator)
    span = torch.randint(257, (count, 1, 1, 1), generator=generator) * (torch.rand(count, 1, 1, 1, generator=generator) < 0.8)
    least = torch.randint(256, (count, 1, 1, 1), generator=generator)
    return (least + pixels * span // 256).clamp(max=255).to(torch.uint8)


def operate_all(pixels, names, amounts, inclusive=False, y=0.0, x=0.0):
    columns = [[NUMBERS[name], amount, y, x] for name, amount in zip(names, amounts, strict=True)]
    return Operations(FILL, FILL, inclusive).apply(pixels, torch.tensor(columns))


def amounts_of(name):
    """Magnitudes as float32, the extreme ones often; those of blends rarely above 3."""
    least, most = LIMITS.get(name, (0.0, 0.0))
    most = min(most, 3.0) if name in BLENDS else most
    ends = {least, most, (least + most) / 2, *({0.5, 1.0, 100.0} if name in BLENDS else {})}
    if name == "rotate":
        ends |= {0.0, 90.0, -90.0, 180.0, 270.0, 45.0}
    return st.floats(least, most, width=32) | st.sampled_from(sorted(ends))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", ALONE)
@settings(max_examples=20)
@given(data=st.data())
def test_every_operation_is_bit_equal_to_pillows(name, data):
    channels = data.draw(st.sampled_from([1, 3]))
    height, width = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from([(32, 32), (8, 8), (1, 1)]))
    pixels = images(data.draw(st.integers(0, 10**6)), 4, channels, height, width)
    amounts = data.draw(st.lists(amounts_of(name), min_size=4, max_size=4))
    ours = operate_all(pixels, [name] * 4, amounts)
    fill = FILL if channels == 3 else GREY_FILL
    theirs = [as_tensor(operated(as_image(each), name, amount, fill)) for each, amount in zip(pixels, amounts, strict=True)]
    assert torch.equal(ours, torch.stack(theirs))


@pytest.mark.usefixtures("way")
@settings(max_examples=40)
@given(data=st.data())
def test_each_image_of_a_batch_has_its_own_operation_and_magnitude(data):
    names = data.draw(st.lists(st.sampled_from(ALONE), min_size=1, max_size=24))
    amounts = [data.draw(amounts_of(name)) for name in names]
    pixels = images(data.draw(st.integers(0, 10**6)), len(names), 3, 9, 12)
    before = pixels.clone()
    ours = operate_all(pixels, names, amounts)
    theirs = [as_tensor(operated(as_image(i), name, a, FILL)) for i, name, a in zip(pixels, names, amounts, strict=True)]
    assert torch.equal(ours, torch.stack(theirs))
    assert torch.equal(pixels, before)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("inclusive", "reference"), [(False, even_cutout), (True, inclusive_cutout)])
@given(
    share=st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.375, 0.5, 1.0]),
    y=st.floats(0, 1, exclude_max=True, width=32),
    x=st.floats(0, 1, exclude_max=True, width=32),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    channels=st.sampled_from([1, 3]),
)
def test_cutout_covers_the_pixels_of_its_source(inclusive, reference, share, y, x, size, channels):
    pixels = images(0, 1, channels, *size)
    ours = operate_all(pixels, ["cutout"], [share], inclusive, y, x)
    theirs = reference(as_image(pixels[0]), share, y, x, FILL if channels == 3 else GREY_FILL)
    assert torch.equal(ours[0], as_tensor(theirs))


def test_a_flat_image_has_neither_contrast_to_stretch_nor_a_histogram_to_even_out():
    flat = torch.full((3, 1, 4, 4), 7, dtype=torch.uint8)
    assert torch.equal(operate_all(flat, ["autocontrast", "equalize", "contrast"], [0, 0, 2.0]), flat)


def test_posterize_keeps_at_least_one_bit():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert set(operate_all(levels, ["posterize"], [0.0]).flatten().tolist()) == {0, 128}


def test_grey_images_have_no_colour_to_change():
    grey = images(0, 2, 1, 8, 8)
    assert torch.equal(operate_all(grey, ["color"] * 2, [0.0, 2.5]), grey)


def shipped(name):
    return build(compose_command([f"strong@dataset.strong={name}"])["dataset"]["strong"])


def test_all_lists_are_shipped():
    assert set(options("strong")) == {"fixmatch", "geometric", "mpl", "none", "torchssl", "usb"}


@pytest.mark.parametrize("name", options("strong"))
def test_every_list_does_what_its_file_says(name):
    strong = shipped(name)
    node = compose_command([f"strong@dataset.strong={name}"])["dataset"]["strong"]
    choice = strong.draw(4000, torch.Generator().manual_seed(0))
    rows = [choice[:, first : first + COLUMNS] for first in range(0, strong.columns, COLUMNS)]
    assert len(rows) == node["draws"] + (node["cutout"] is not None)
    for step in rows[: node["draws"]]:
        kinds = [NAMES[int(kind)] for kind in step[:, 0]]
        assert set(kinds) - {"identity"} == set(node["operations"]) - {"identity"}
        for operation, magnitude in node["operations"].items():
            drawn = step[[kind == operation for kind in kinds], 1]
            assert_magnitudes(drawn, magnitude)
    if node["cutout"]:
        assert_magnitudes(rows[-1][:, 1], node["cutout"])
        assert (rows[-1][:, 0] == NUMBERS["cutout"]).all()
    pixels = images(0, 200, 3, 32, 32)
    augmented = strong.apply(pixels, choice[:200])
    assert augmented.dtype == torch.uint8 and augmented.shape == pixels.shape
    assert torch.equal(augmented, pixels) == (name == "none")


def assert_magnitudes(drawn, magnitude):
    """The drawn magnitudes are those that a node names, all of them."""
    if magnitude is None:
        return
    if "values" in magnitude:
        signs = (1, -1) if magnitude.get("signed") else (1,)
        named = torch.tensor([float(sign * value) for value in magnitude["values"] for sign in signs])
        assert torch.equal(drawn.unique(), named.unique())
    else:
        low, high = magnitude["between"]
        assert low <= drawn.min() < low + (high - low) / 20 and high - (high - low) / 20 < drawn.max() <= high


def test_the_numbers_of_fixmatch_follow_from_its_levels():
    node = yaml.safe_load((CONF / "strong" / "fixmatch.yaml").read_text())["operations"]
    levels = range(1, 10)
    assert node["rotate"]["values"] == [int(level * 30 / 10) for level in levels]
    assert node["solarize"]["values"] == [256 - int(level * 256 / 10) for level in levels]
    assert node["posterize"]["values"] == [4 - int(level * 4 / 10) for level in levels]
    assert node["color"]["values"] == pytest.approx([level * 1.8 / 10 + 0.1 for level in levels])
    assert node["shear_x"]["values"] == pytest.approx([level * 0.3 / 10 for level in levels])
    assert [32 * share for share in node["translate_x"]["values"]] == list(levels)


def test_an_operation_is_applied_with_a_probability_drawn_for_each_image():
    invert = GIVEN | {"draws": 40, "operations": {"invert": None}}
    for probability, spread in (([0.5, 0.5], 0.08), ([0.2, 0.8], 0.19)):
        choice = RandAugment(**invert | {"probability": probability}).draw(3000, torch.Generator().manual_seed(0))
        shares = (choice[:, ::COLUMNS] == NUMBERS["invert"]).float().mean(1)
        assert shares.mean() == pytest.approx(0.5, abs=0.02)
        assert shares.std() == pytest.approx(spread, abs=0.01)


def test_draws_depend_on_the_generator_alone():
    strong, choices = RandAugment(**GIVEN), []
    for unrelated in (0, 1):
        torch.manual_seed(unrelated)
        choices.append(strong.draw(50, torch.Generator().manual_seed(3)))
    assert torch.equal(*choices)
    assert not torch.equal(choices[0], strong.draw(50, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"operations": {"rotat": None}}, "operations.rotat: unknown operation; did you mean rotate?"),
        ({"operations": {"invert": {"values": [1]}}}, "must be null, there is no weaker or stronger invert"),
        ({"operations": {"rotate": None}}, r"operations.rotate=None: must be \{values: \[1, 2\]\}"),
        ({"operations": {"rotate": {"values": []}}}, "operations.rotate=.*must be"),
        ({"operations": {"rotate": {"values": [1], "between": [1, 2]}}}, "operations.rotate=.*must be"),
        ({"operations": {"rotate": {"values": [1], "sined": True}}}, "operations.rotate=.*must be"),
        ({"operations": {"rotate": {"between": [2, 1]}}}, r"between must be \[smallest, largest\]"),
        ({"operations": {"posterize": {"values": [0]}}}, "magnitudes of posterize lie between 1 and 8"),
        ({"operations": {"solarize": {"values": [9], "signed": True}}}, "magnitudes of solarize lie between 0 and 256"),
        ({"operations": {}}, "operations={}: must name an operation, or draws must be 0"),
        ({"cutout": {"values": [16]}}, "cutout=.*magnitudes of cutout lie between 0 and 1"),
        ({"probability": [0.5]}, r"probability=\[0.5\]: must be \[smallest, largest\]"),
        ({"fill": [0, 0]}, r"fill=\[0, 0\]: must have one value, or three"),
        ({"draws": -1}, "draws=-1: must be at least 0"),
    ],
)
def test_bad_lists_are_refused_by_name(changed, sentence):
    with pytest.raises(InvalidArguments, match=sentence):
        RandAugment(**GIVEN | changed)


def test_no_step_waits_for_a_device_other_than_the_cpu():
    strong = shipped("mpl")
    pixels, choice = images(0, 8, 3, 16, 16).to("meta"), strong.draw(8, torch.Generator()).to("meta")
    assert strong.apply(pixels, choice).shape == pixels.shape  # without values, nothing can depend on them


@pytest.mark.alone
def test_a_batch_takes_less_time_than_pillow():
    measured = compare("fixmatch", images=448, turns=5)
    assert measured["ratio"] < 0.9
