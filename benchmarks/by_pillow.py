"""RandAugment's operations by Pillow, one image at a time."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

AFFINE = Image.Transform.AFFINE


def operated(image, name, amount, fill):
    """The image after an operation; `fill` is what comes from outside."""
    width, height = image.size
    maps = {
        "shear_x": (1, amount, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, amount, 1, 0),
        "translate_x": (1, 0, amount * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, amount * height),
    }
    if name == "identity":
        return image
    if name == "rotate":
        return image.rotate(amount, fillcolor=fill)
    if name in maps:
        return image.transform(image.size, AFFINE, maps[name], fillcolor=fill)
    if name == "posterize":
        return ImageOps.posterize(image, int(amount))
    if name == "solarize":
        return ImageOps.solarize(image, amount)
    if name in ("autocontrast", "equalize", "invert"):
        return getattr(ImageOps, name)(image)
    return getattr(ImageEnhance, name.capitalize())(image).enhance(amount)


def even_cutout(image, share, y, x, fill):
    """FixMatch's: around a whole pixel, an even number of pixels wide, cut off at the border."""
    width, height = image.size
    row, column, half = int(y * height), int(x * width), int(share * width / 2)
    pixels = np.array(image)
    pixels[max(0, row - half) : row + half, max(0, column - half) : column + half] = fill
    return Image.fromarray(pixels)


def inclusive_cutout(image, share, y, x, fill):
    """TorchSSL's: Pillow's rectangle, which includes its last row and column."""
    width, height = image.size
    side = share * width
    if side <= 0:
        return image
    left, top = int(max(0, x * width - side / 2)), int(max(0, y * height - side / 2))
    image = image.copy()
    ImageDraw.Draw(image).rectangle((left, top, min(width, left + side), min(height, top + side)), fill)
    return image


def as_image(pixels):
    """A tensor uint8 [C, H, W] as Pillow's image, grey or in colour."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def as_tensor(image):
    """Pillow's image as a tensor uint8 [C, H, W]."""
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)
