"""Encoded images to arrays: one shape, one type, upright; every failure is a DecodeError."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine import storage

FORMATS = ("JPEG", "PNG", "WEBP")
_PNG = b"\x89PNG\r\n\x1a\n"
_SIXTEEN_BIT_COLOURS = (b"\x10\x02", b"\x10\x04", b"\x10\x06")
"""Bit depth and colour type in a PNG's header: RGB, gray with alpha, RGB with alpha."""
_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Picture = str | os.PathLike[str] | Image.Image | np.ndarray
"""An image as people have it: a path or URL, a PIL image, or an upright (H, W, 3) uint8 RGB array."""


class DecodeError(ValueError):
    """Data that do not decode; `reason` is ``corrupt_image``, ``too_large`` or ``out_of_memory``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


def decode_image(data: bytes, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decodes a JPEG, PNG or WebP image completely, its first frame if it is animated.

    EXIF orientation is applied, alpha put over white, 16-bit gray scaled to 8 with rounding, palettes and
    CMYK converted.

    Returns:
        (H, W, 3) uint8 RGB, writable.

    Raises:
        DecodeError: damaged, of another format, or with more than `max_pixels` pixels (checked before
            decoding; PIL's own limit of 179 million acts besides).
    """
    return np.array(_decode(data, max_pixels, _to_rgb))


def image_to_array(image: Image.Image) -> np.ndarray:
    """An open image as `decode_image` gives it: (H, W, 3) uint8 RGB, upright.

    Raises:
        DecodeError: its file is damaged, or its pixels are real numbers, of which nobody knows the range.
    """
    if image.mode == "F":
        raise DecodeError("corrupt_image", "Pixels of mode F have no known range; convert them to L or RGB.")
    try:
        return np.array(_make_upright(_to_rgb(image), image))
    except Exception as error:
        raise _damaged(error) from error


def to_array(image: Picture) -> np.ndarray:
    """An image of any kind as `decode_image` gives it.

    Raises:
        DecodeError: the image is not readable.
        ValueError: an array of another shape or type.
        OSError: the file cannot be read.
    """
    if isinstance(image, Image.Image):
        return image_to_array(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"an array of shape {image.shape} and type {image.dtype} is no (H, W, 3) uint8 image")
        return image
    return decode_image(storage.read_bytes(storage.absolute(os.fspath(image))))


def decode_mask(data: bytes, *, max_pixels: int = 100_000_000) -> np.ndarray:
    """Decodes a mask image: what is neither black nor fully transparent is foreground.

    Returns:
        (H, W) bool

    Raises:
        DecodeError: as `decode_image`, or a PNG in colour or with alpha that has 16 bits per channel.
    """
    if data.startswith(_PNG) and data[24:26] in _SIXTEEN_BIT_COLOURS:
        # Of these Pillow keeps the high byte alone, in which small values are black.
        raise DecodeError(
            "corrupt_image",
            "A mask in colour or with alpha, of 16 bits per channel, does not decode exactly; store it with 8 bits, or "
            "as gray.",
        )
    return np.array(_decode(data, max_pixels, _to_foreground))


def _decode(data: bytes, max_pixels: int, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DecodeError("too_large", f"{width} x {height} pixels are more than the limit of {max_pixels}.")
            if image.format == "PNG":
                # Decoding does not look at the checksums of the pixel data; verify() does nothing else.
                image.verify()
                image = Image.open(io.BytesIO(data), formats=FORMATS)
            image.load()
            return _make_upright(convert(image), image)
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise DecodeError("too_large", f"{str(error).rstrip('.')}.") from error
    except UnidentifiedImageError as error:
        begin = f"{len(data)} bytes beginning with {data[:8]!r}" if data else "zero bytes"
        raise DecodeError("corrupt_image", f"Not a readable JPEG, PNG or WebP image: {begin}.") from error
    except MemoryError as error:
        raise DecodeError("out_of_memory", f"Not enough memory to decode {len(data)} bytes.") from error
    except Exception as error:
        # PIL's plugins raise nearly anything on damaged data: OSError, SyntaxError, struct.error, KeyError, …
        raise _damaged(error) from error


def _damaged(error: Exception) -> DecodeError:
    return DecodeError("corrupt_image", f"Damaged image: {type(error).__name__}: {str(error).rstrip('.')}.")


def _is_deep(image: Image.Image) -> bool:
    """Whether it is gray with 16 bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def _to_foreground(image: Image.Image) -> Image.Image:
    """Bilevel: where it is neither black nor fully transparent."""
    if _is_deep(image):
        values = np.asarray(image)
        return Image.fromarray((values > 0) & (values != image.info.get("transparency")))
    if image.has_transparency_data:
        # Not put over black, where what is faint and dark would round to black.
        rgba = np.asarray(image.convert("RGBA"))
        return Image.fromarray(rgba[..., :3].any(axis=2) & (rgba[..., 3] > 0))
    return Image.fromarray(np.asarray(image.convert("RGB")).any(axis=2))


def _to_rgb(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        # In place, and in 32 bits: of a hundred million pixels, every copy counts.
        values = np.array(image, dtype=np.int32)
        np.clip(values, 0, 65535, out=values)
        transparent = image.info.get("transparency")
        see_through = values == transparent if isinstance(transparent, int) else None
        values *= 255
        values += 32767
        values //= 65535
        gray = values.astype(np.uint8)
        if see_through is not None:
            gray[see_through] = 255
        return Image.fromarray(gray).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _make_upright(picture: Image.Image, original: Image.Image) -> Image.Image:
    try:
        orientation = original.getexif().get(_ORIENTATION)
    except Exception:
        # Broken EXIF in front of good pixels: every viewer shows such an image as it is stored.
        orientation = None
    method = _TO_UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if method is None else picture.transpose(method)
