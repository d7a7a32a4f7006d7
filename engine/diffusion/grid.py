"""Images in rows, for people to look at."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor


def draw_grid(rows: list[Tensor], *, titles: list[str] | None = None) -> Image.Image:
    """Rows of images ([n, 3, H, W] in [-1, 1]) as one picture, with an optional title over each column."""
    height, width = rows[0].shape[-2:]
    head = 24 if titles else 0
    sheet = Image.new("RGB", (len(rows[0]) * width, head + len(rows) * height), "white")
    for r, row in enumerate(rows):
        for c, image in enumerate(row):
            pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (c * width, head + r * height))
    pen = ImageDraw.Draw(sheet)
    for c, title in enumerate(titles or []):
        words = title.removeprefix("a photo of ")
        pen.text((c * width + 2, 2), words[: width // 6] + "\n" + words[width // 6 :], fill="black")
    return sheet
