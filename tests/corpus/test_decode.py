from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFile

from engine.corpus.decode import DecodeError, decode_image, decode_mask, image_to_array
from tests.corpus.hostile import draw_noise, encode, make_png_bomb, make_sixteen_bit_png

PICTURE = draw_noise(1, height=37, width=61)


def save(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def close(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and float(np.abs(left.astype(int) - right).mean()) < 6


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_color_images_keep_size_and_colors(format: str) -> None:
    pixels = decode_image(encode(PICTURE, format))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert close(pixels, PICTURE)
    assert format != "PNG" or (pixels == PICTURE).all()


def test_progressive_and_one_pixel_images() -> None:
    assert close(decode_image(encode(PICTURE, "JPEG", progressive=True)), PICTURE)
    assert (decode_image(encode(PICTURE[:1, :1])) == PICTURE[:1, :1]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    # An upright picture is stored turned the other way round, so that applying the tag gives it back.
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(store[orientation](PICTURE))
    for format in ("JPEG", "PNG", "WEBP"):
        assert close(decode_image(encode(stored, format, exif=exif)), PICTURE)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_costs_nothing(exif: bytes) -> None:
    assert close(decode_image(encode(PICTURE, "JPEG", exif=exif)), PICTURE)


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    values = np.array([[0, 128, 129, 256, 32768, 65407, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    assert (decode_image(encode(values)) == expected[..., None]).all()


def test_gray_bilevel_and_gray_with_alpha() -> None:
    gray = PICTURE[..., 0]
    assert (decode_image(encode(gray)) == gray[..., None]).all()
    bits = Image.fromarray(gray > 128)
    assert (decode_image(save(bits)) == np.array(bits)[..., None] * np.uint8(255)).all()
    half = Image.merge("LA", [Image.new("L", (2, 1), 0), Image.new("L", (2, 1), 51)])
    assert (decode_image(save(half)) == 204).all()


def test_transparency_is_put_over_white() -> None:
    rgba = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    rgba[:10, :, 3] = 255
    pixels = decode_image(encode(rgba))
    assert (pixels[:10] == PICTURE[:10]).all()
    assert (pixels[10:] == 255).all()
    palette = Image.new("P", (3, 2), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((0, 0), 0)
    assert decode_image(save(palette, transparency=1))[0].tolist() == [[10, 20, 30], [255] * 3, [255] * 3]
    assert decode_image(save(palette))[0, 1].tolist() == [200, 100, 50]
    keyed = decode_image(save(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3)))
    assert (keyed == 255).all()


def test_cmyk_has_the_right_polarity() -> None:
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    assert close(decode_image(save(cmyk, "JPEG", quality=95)), PICTURE)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_animations_give_their_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 4), color) for color in ("red", "lime", "blue")]
    data = save(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert (decode_image(data) == np.array(frames[0])).all()


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_image(data, **options)
    assert str(caught.value).endswith(".")
    return caught.value.reason


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("was decoded"))
    assert reason(make_png_bomb()) == "too_large"
    assert reason(encode(PICTURE), max_pixels=37 * 61 - 1) == "too_large"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_truncated_images_are_not_labelled(format: str) -> None:
    data = encode(PICTURE, format)
    for length in (0, 1, 10, 30, len(data) // 2, len(data) - 20):
        assert reason(data[:length]) == "corrupt_image"


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "PDF", "EPS"])
def test_other_formats_are_refused_whatever_their_name(format: str) -> None:
    assert reason(encode(PICTURE, format)) == "corrupt_image"


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encode(PICTURE))
    data[len(data) // 2] ^= 1
    assert reason(bytes(data)) == "corrupt_image"


@pytest.mark.parametrize("error", [MemoryError(), SyntaxError("x"), RecursionError(), KeyError(3)])
def test_whatever_pil_raises_becomes_a_decode_error(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ImageFile.ImageFile) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    expected = "out_of_memory" if isinstance(error, MemoryError) else "corrupt_image"
    assert reason(encode(PICTURE, "JPEG")) == expected


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_random_damage_gives_pixels_or_a_decode_error(format: str) -> None:
    random = np.random.default_rng(0)
    data = encode(PICTURE, format)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(random.integers(1, 8)):
            broken[random.integers(len(broken))] = random.integers(256)
        try:
            pixels = decode_image(bytes(broken), max_pixels=1_000_000)
        except DecodeError:
            continue
        assert pixels.ndim == 3


def test_masks_are_what_is_neither_black_nor_transparent() -> None:
    expected = PICTURE[..., 0] > 128
    gray = expected.astype(np.uint8)
    red = np.dstack([gray * 255, gray * 0, gray * 0])
    for pixels in (gray, gray * 255, gray.astype(np.uint16), expected, red, np.dstack([red, gray * 255])):
        mask = decode_mask(encode(pixels))
        assert mask.dtype == bool
        assert (mask == expected).all()
    cutout = np.dstack([np.full_like(PICTURE, 255), gray * 255])
    assert (decode_mask(encode(cutout)) == expected).all()


def test_nothing_in_a_mask_is_so_faint_that_it_becomes_background() -> None:
    for pixels in ([100, 0, 0, 1], [0, 0, 1, 255], [1, 1, 1, 1]):
        assert decode_mask(encode(np.array([[pixels, [0, 0, 0, 0]]], np.uint8))).tolist() == [[True, False]]
    keyed = save(Image.fromarray(np.array([[1, 7, 0]], np.uint16)), transparency=7)
    assert decode_mask(keyed).tolist() == [[True, False, False]]


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_masks_of_sixteen_bits_are_exact_or_refused(colour_type: int, channels: int) -> None:
    ids = np.arange(256, dtype=">u2").reshape(16, 16, 1).repeat(channels, axis=2)
    data = make_sixteen_bit_png(ids, colour_type)
    assert decode_image(data).shape == (16, 16, 3)
    if colour_type == 0:
        assert (decode_mask(data) == (ids[..., 0] > 0)).all()
    else:
        with pytest.raises(DecodeError, match=r"16 bits per channel.*store it with 8 bits, or as gray"):
            decode_mask(data)


def test_pil_images_that_are_damaged_or_without_a_range_are_refused() -> None:
    data = io.BytesIO()
    Image.fromarray(draw_noise(1)).save(data, "JPEG")
    damaged = Image.open(io.BytesIO(data.getvalue()[:-100]))
    for image, words in ((damaged, "Damaged image"), (Image.new("F", (8, 8), 0.5), "mode F")):
        with pytest.raises(DecodeError, match=words):
            image_to_array(image)
