"""Builds a corpus in which everything goes wrong at once, among good data. End-to-end tests use it too."""

from __future__ import annotations

import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# Members of a tar, in order: name and content.
Members = Sequence[tuple[str, bytes]]


def write_hostile_corpus(folder: str | Path, draw: Callable[[int], np.ndarray] | None = None) -> dict[str, list]:
    """Writes eight tars with every kind of bad data that the project promises to survive.

    Args:
        draw: makes the (H, W, 3) uint8 image of a number; small noise pictures if not given.

    Returns:
        ``good``: sorted (shard, key) that must be labelled; ``bad``: sorted (shard, key, reason), reasons of
        reading and of decoding alike, key ``""`` for a whole shard.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    image = draw or draw_noise
    good: list[tuple[str, str]] = []
    bad: list[tuple[str, str, str]] = []

    def sample(number: int) -> list[tuple[str, bytes]]:
        key = f"{number:06d}"
        caption = f"a photo of number {number}".encode()
        return [(f"{key}.jpg", encode(image(number), "JPEG")), (f"{key}.txt", caption)]

    def add(shard: str, members: Members, keys: Sequence[int | str]) -> bytes:
        data = make_tar(members)
        (folder / shard).write_bytes(data)
        good.extend((shard, key if isinstance(key, str) else f"{key:06d}") for key in keys)
        return data

    # A clean shard, with a ground-truth mask.
    mask = encode(np.full(image(0).shape[:2], 255, np.uint8), "PNG")
    add("000000.tar", [*sample(0), ("000000.mask.png", mask), *sample(1)], [0, 1])

    # Bad samples between good ones.
    jpeg = encode(image(11), "JPEG")
    add(
        "000001.tar",
        [
            *sample(10),
            ("000011.jpg", jpeg[: len(jpeg) * 3 // 4]),
            ("000012.jpg", b"\xff\xd8\xff\xe0 this was never a photo" * 9),
            ("000013.png", make_png_bomb()),
            ("notes.md", b"# not an image\n"),
            ("../../outside.jpg", jpeg),
            ("/absolute.jpg", jpeg),
            ("evil.pickle", Boom.pickled()),
            *sample(19),
        ],
        [10, 19],
    )
    bad += [
        ("000001.tar", "000011", "corrupt_image"),
        ("000001.tar", "000012", "corrupt_image"),
        ("000001.tar", "000013", "too_large"),
        ("000001.tar", "notes", "no_image"),
        ("000001.tar", "../../outside", "unsafe_key"),
        ("000001.tar", "/absolute", "unsafe_key"),
        ("000001.tar", "evil", "no_image"),
    ]

    # A good sample with a pickle beside it: labelled, the pickle never opened.
    pickle = ("000020.pickle", Boom.pickled())
    add("000002.tar", [*sample(20), pickle, ("000020.pyd", Boom.pickled()), *sample(21)], [20, 21])

    # The same file name twice.
    add("000003.tar", [*sample(30), *sample(31), ("000030.jpg", jpeg), *sample(32)], [30, 31, 32])
    bad.append(("000003.tar", "000030", "duplicate_key"))

    # Images first, captions later.
    apart = [sample(number) for number in (40, 41, 42)]
    add("000004.tar", [s[0] for s in apart] + [s[1] for s in apart], [40, 41, 42])
    bad.append(("000004.tar", "", "unsorted"))

    # A download that stopped in the middle of the third image.
    whole = add("000005.tar", [m for number in (50, 51, 52) for m in sample(number)], [50, 51])
    third = whole.index(b"000052.jpg")
    (folder / "000005.tar").write_bytes(whole[: third + 512 + 100])
    bad.append(("000005.tar", "", "truncated"))

    # A download that never began, and one that brought an error page.
    (folder / "000006.tar").write_bytes(b"")
    (folder / "000007.tar").write_bytes(b"<html><body>404 Not Found</body></html>" * 30)
    bad += [("000006.tar", "", "empty"), ("000007.tar", "", "not_a_tar")]
    return {"good": sorted(good), "bad": sorted(bad)}


class Boom:
    """Ends the process with code 86 if anybody unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (86,)

    @staticmethod
    def pickled() -> bytes:
        import pickle

        return pickle.dumps(Boom())


def draw_noise(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A soft random picture, (height, width, 3) uint8, the same for the same number."""
    small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """Encodes an array in PIL's format of that name."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def make_tar(members: Members) -> bytes:
    """A tar with regular files of these names, in this order; nothing is checked."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_png_bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A valid 1-bit PNG of many pixels in few bytes."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    return _join_png(struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), pixels)


def make_sixteen_bit_png(pixels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of big-endian pixels, (H, W, C) uint16, which Pillow does not write in colour."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return _join_png(struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0), zlib.compress(rows))


def _join_png(header: bytes, pixels: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def make_corpus_tar(numbers: Sequence[int]) -> bytes:
    """A clean shard: image, caption, description and two masks for each number."""
    members: list[tuple[str, bytes]] = []
    for number in numbers:
        key, pixels = f"{number:06d}", draw_noise(number)
        mask = encode((pixels[..., 0] > 128).astype(np.uint8) * 255)
        members += [
            (f"{key}.jpg", encode(pixels, "JPEG")),
            (f"{key}.json", json.dumps({"number": number}).encode()),
            (f"{key}.mask.png", mask),
            (f"{key}.red hat.mask.png", mask),
            (f"{key}.txt", f"number {number}\n".encode()),
        ]
    return make_tar(members)
