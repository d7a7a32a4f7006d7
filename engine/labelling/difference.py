"""How far an image is from its inpaintings, pixel by pixel (paper, Eq. 5: the mean over channels of |x − x̂|).

Shapes: B images, H × W pixels of the model's canvas, R inpaintings of an image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.labelling.spec import RefinementSpec


def difference(image: Tensor, inpainted: Tensor, settings: RefinementSpec) -> Tensor:
    """How far each pixel is from its inpaintings: [B, H, W] float32 in 0..1 (or about that, for CIELAB).

    Args:
        image: [B, 3, H, W] in [-1, 1]; inpainted: [B, R, 3, H, W].
    """
    if settings.colour == "lab":
        apart = (to_lab(image)[:, None] - to_lab(inpainted)).norm(dim=2) / 100
    else:
        apart = (image[:, None] - inpainted).abs().mean(2) / 2
    if settings.combine == "mean":
        return apart.mean(1)
    if settings.combine == "minimum":
        return apart.amin(1)
    ordered = apart.sort(dim=1).values
    middle = (apart.shape[1] - 1) / 2
    return (ordered[:, math.floor(middle)] + ordered[:, math.ceil(middle)]) / 2


def to_lab(image: Tensor) -> Tensor:
    """sRGB [..., 3, H, W] in [-1, 1] to CIELAB of the D65 white: L in 0..100, a and b in about -110..110."""
    rgb = (image + 1) / 2
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = image.new_tensor(  # IEC 61966-2-1, rows divided by the white point
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) / image.new_tensor([[0.9505], [1.0], [1.089]])
    xyz = torch.einsum("ij,...jhw->...ihw", to_xyz, linear)
    delta = 6 / 29
    f = torch.where(xyz > delta**3, xyz.clamp(min=1e-8) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)
