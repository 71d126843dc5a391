"""Preprocessing: any image becomes what test images were; what may be meant in two ways is refused."""

import numpy as np
import pytest
import torch
from folders import picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdexp.data.arrays import channels_last
from kdexp.data.decoding import square_of
from kdexp.data.preprocessing import Preprocessing
from kdexp.errors import UnfitImage

COLOUR, GREY, CROPPED = Preprocessing(3, 8, 8), Preprocessing(1, 8, 8), Preprocessing(3, 10, 8)


def expected(image, steps):
    """The central crop of the square that decoding makes, in 0..1, [1, C, S, S]."""
    start = (steps.resize - steps.crop) // 2
    square = square_of(image, steps.channels, steps.resize)[start : start + steps.crop, start : start + steps.crop]
    return torch.from_numpy(square.copy()).permute(2, 0, 1)[None].float().div(255)


@pytest.mark.parametrize("steps", [COLOUR, GREY, CROPPED])
@pytest.mark.parametrize(("width", "height"), [(8, 8), (30, 20), (5, 13)])
def test_all_kinds_of_one_image_give_the_same_pixels(tmp_path, steps, width, height):
    image = picture(0, width, height)
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    same = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        image,
        pixels,
        torch.tensor(pixels),
        torch.tensor(pixels).permute(2, 0, 1),
    ]
    for kind in same:
        assert torch.equal(steps(kind), expected(image, steps))
    floats = torch.tensor(pixels).permute(2, 0, 1).div(255)
    for kind in (floats, floats.double().numpy(), floats.permute(1, 2, 0)):
        torch.testing.assert_close(steps(kind), expected(image, steps), rtol=0, atol=1.5 / 255)


def test_floats_of_the_right_size_stay_as_they_are():
    image = torch.rand(3, 8, 8)
    assert torch.equal(COLOUR(image)[0], image)


def test_grey_images_become_colour_and_transparent_ones_lie_on_white():
    grey = np.full((8, 8), 51, np.uint8)
    assert torch.equal(COLOUR(grey), torch.full((1, 3, 8, 8), 0.2)) and torch.equal(COLOUR(grey / 255), COLOUR(grey))
    clear = np.zeros((8, 8, 4), np.uint8)
    assert torch.equal(COLOUR(clear), torch.ones(1, 3, 8, 8))


def test_exif_data_turn_an_image():
    image, exif = picture(0, 12, 8), Image.Exif()
    turned = image.transpose(Image.Transpose.ROTATE_270)
    exif[0x0112] = 6  # turned by a quarter
    image.info["exif"] = exif.tobytes()
    assert torch.equal(COLOUR(image), COLOUR(turned))


def test_batches_and_lists_are_made_image_by_image():
    batch = torch.randint(0, 256, (3, 1, 20, 16), dtype=torch.uint8)
    one_by_one = torch.cat([GREY(image) for image in batch])
    assert torch.equal(GREY(batch), one_by_one) and torch.equal(GREY(list(batch)), one_by_one)
    assert GREY([picture(0, 9, 9), picture(1, 20, 9)]).shape == (2, 1, 8, 8)


def test_any_number_of_channels_is_taken_as_arrays():
    image = torch.rand(5, 16, 16)
    steps = Preprocessing(5, 8, 8)
    assert steps(image).shape == (1, 5, 8, 8) and torch.equal(steps(image), steps(image.permute(1, 2, 0)))


REFUSED = [
    (torch.zeros(3, 8, 3), r'an image of shape \[3, 8, 3\] may have its channels first or last: say which, .*layout="CHW"'),
    (torch.zeros(5, 8, 8), r"an image of shape \[5, 8, 8\] has no axis of 1 or 3 or 4 channels"),
    (torch.zeros(8), r"an image can't have the shape \[8\]"),
    (torch.zeros(0, 8), r"an image can't have the shape \[0, 8, 1\]"),
    (torch.full((3, 8, 8), 200.0), r"has values from 200 to 200: floating point must be in 0..1"),
    (torch.full((3, 8, 8), torch.nan), r"has values from nan to nan"),
    (torch.zeros(3, 8, 8, dtype=torch.long), r"the image is int64: pass uint8"),
    (torch.zeros(4, 8, 8), r"transparency must be a Pillow image or uint8"),
    (7, r"an image can't be a int"),
    ([], r"no image in an empty list"),
    ("nowhere.png", r"nowhere.png can't be read: the file does not exist"),
    (Image.new("F", (8, 8)), r"32-bit pixels, whose range is unknown"),
]


@pytest.mark.parametrize(("image", "sentence"), REFUSED)
def test_unfit_images_are_refused(image, sentence):
    with pytest.raises(UnfitImage, match=sentence):
        COLOUR(image)


def test_pillow_images_have_no_other_number_of_channels():
    with pytest.raises(UnfitImage, match="takes images of 2 channels, which can only be arrays or tensors"):
        Preprocessing(2, 8, 8)(picture(0))


def test_a_layout_resolves_what_the_shape_leaves_open():
    image = torch.rand(3, 8, 3)
    first, last = COLOUR(image, "CHW"), COLOUR(image, "HWC")
    assert not torch.equal(first, last) and torch.equal(last, COLOUR(image.permute(2, 0, 1), "CHW"))
    with pytest.raises(UnfitImage, match="no axis of 1 or 3 or 4 channels in the layout HWC"):
        COLOUR(torch.rand(3, 8, 8), "HWC")


sides = st.integers(1, 9)


@given(shape=st.tuples(sides, sides, sides), channels=st.sampled_from([1, 3, 5]))
def test_channels_come_last_or_the_shape_is_refused(shape, channels):
    image = np.zeros(shape, np.float32)
    known = {1, 3, 4} if channels != 5 else {5}
    fitting = [axis for axis in (0, 2) if shape[axis] in known]
    if len(fitting) == 1:
        assert channels_last(image, channels).shape[2] == shape[fitting[0]]
    else:
        with pytest.raises(UnfitImage):
            channels_last(image, channels)
