"""What is fed with hostile bytes, and what it may answer: a result that holds together, or the promised error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import storage
from engine.corpus.catalogue import Shard
from engine.corpus.decode import DecodeError, decode_image, decode_mask
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Defect, Sample
from engine.run.claim import Holder
from engine.run.claim import _from_json as parse_claim
from engine.run.directory import LabelRun, RunError, read_receipts, subtract_receipts
from engine.run.fake import FakeLabeller
from engine.run.rows import labels_to_parquet, read_rows
from engine.run.shard import label_lease
from schemas.run import RunManifest
from tests.corpus.hostile import draw_noise, encode, make_corpus_tar, make_tar
from tests.run.test_shard import SPEC, make_run

ROOT = "memory://fuzz"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Checks one input, and some that it is made for; `share` of all inputs go to it."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    share: float


def check_tar(data: bytes) -> None:
    url = f"{ROOT}/x.tar"
    storage.atomic_put(data, url)
    with open_lease(Lease(shard=Shard(url=url, name="x.tar", size=len(data), kind="tar")), masks=True) as reader:
        items = list(reader)
        planned, keys = reader.planned, list(reader.samples().values())
    assert len(items) == planned
    assert all(isinstance(item, Sample | Defect) for item in items)
    assert len(set(keys)) == len(keys), "keys are unique in a shard"
    assert not any(key.startswith("/") or ".." in key.split("/") for key in keys)
    assert all(item.reason and item.message for item in items if isinstance(item, Defect))


def seed_tars() -> list[bytes]:
    image = encode(draw_noise(1))
    members = [("a.png", image), ("a.json", b'{"a": [1, null]}'), ("b/c.png", image), ("b/c.txt", b"text")]
    return [make_corpus_tar([1, 2]), make_tar(members), make_tar([("a" * 150 + ".png", image), ("é.jpg", image)]), b""]


def check_image(data: bytes) -> None:
    try:
        pixels = decode_image(data)
    except DecodeError as error:
        assert error.reason in ("corrupt_image", "too_large", "out_of_memory") and str(error)
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size


def check_mask(data: bytes) -> None:
    try:
        mask = decode_mask(data)
    except DecodeError:
        return
    assert mask.dtype == bool and mask.ndim == 2 and mask.size


def seed_images() -> list[bytes]:
    pixels = draw_noise(3, 24, 32)
    alpha = np.dstack([pixels, pixels[..., :1]])
    deep = (pixels[..., 0].astype(np.uint16) * 257).copy()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return [
        encode(pixels, "JPEG"),
        encode(pixels, "JPEG", progressive=True, exif=exif),
        encode(pixels),
        encode(alpha),
        encode(deep),
        encode(pixels[..., 0] > 100),
        encode(pixels, "WEBP"),
        encode(alpha, "WEBP", lossless=True),
    ]


def check_json(data: bytes) -> None:
    """A description beside an image: whatever it is, the image is read."""
    tar = make_tar([("a.png", encode(draw_noise(1, 4, 4))), ("a.json", data)])
    storage.atomic_put(tar, f"{ROOT}/j.tar")
    with open_lease(Lease(shard=Shard(url=f"{ROOT}/j.tar", name="j.tar", size=len(tar), kind="tar"))) as reader:
        (sample,) = reader
    assert isinstance(sample, Sample) and isinstance(sample.metadata, dict)


def seed_json() -> list[bytes]:
    return [b'{"a": 1}', b'[{"a": [1.5e300, null, "\\ud800"]}]', b"[" * 3000 + b"]" * 3000, b"NaN", b"\xff\xfe{"]


def run_in_memory() -> LabelRun:
    return make_run(f"{ROOT}/run")


def labelled() -> LabelRun:
    """A run in memory with one lease."""
    run, url = run_in_memory(), f"{ROOT}/s.tar"
    if not storage.exists(run.receipt_url("s")):
        tar = make_corpus_tar([1, 2, 3])
        storage.atomic_put(tar, url)
        label_lease(lease_of(len(tar)), FakeLabeller("fake", SPEC), run)
    return run


def lease_of(size: int) -> Lease:
    return Lease(shard=Shard(url=f"{ROOT}/s.tar", name="s.tar", size=size, kind="tar"))


def check_parquet(data: bytes) -> None:
    run = run_in_memory()
    storage.atomic_put(data, run.labels_url("x"))
    rows = read_rows(run, "x")
    assert all(row["key"] == key for key, own in rows.items() for row in own)
    labels_to_parquet([row for own in rows.values() for row in own], run)


def seed_parquet() -> list[bytes]:
    run = labelled()
    return [storage.read_bytes(run.labels_url("s")), labels_to_parquet([], run)]


def check_receipt(data: bytes) -> None:
    run = LabelRun(**{**vars(run_in_memory()), "url": f"{ROOT}/receipts"})
    storage.atomic_put(data, run.receipt_url("s"))
    try:
        receipts = read_receipts(run.url, run.stage)
        subtract_receipts([lease_of(7)], receipts, run)
    except RunError as error:
        assert str(error)


def seed_receipts() -> list[bytes]:
    text = storage.read_bytes(labelled().receipt_url("s"))
    values: dict[str, Any] = json.loads(text)
    odd = [{**values, "quarantined": []}, {**values, "lease": 5}, {**values, "seen": "3"}, {**values, "more": 1}]
    return [text, *(json.dumps(each).encode() for each in odd), b"[" * 100_000, b"{}", b"null"]


def check_manifest(data: bytes) -> None:
    try:
        manifest = RunManifest.from_json(data)
    except ValueError as error:
        assert str(error)
        return
    manifest.differences(RunManifest(fingerprint={"a": 1}))
    assert RunManifest.from_json(manifest.to_json()) == manifest


def seed_manifests() -> list[bytes]:
    whole = RunManifest(fingerprint={"concept": "car", "steps": 3}, config={"a": None}, versions={"x": "1"})
    values = json.loads(whole.to_json())
    return [whole.to_json().encode(), json.dumps({**values, "fingerprint": []}).encode(), b"[" * 100_000, b"[[1, 2]]"]


def check_claim(data: bytes) -> None:
    holder = parse_claim(data)
    assert holder is None or (isinstance(holder.gone(), bool) and str(holder))


def seed_claims() -> list[bytes]:
    return [json.dumps(vars(Holder.here("one"))).encode(), b"[" * 100_000, b"5", b""]


TARGETS = {
    "tar": Target(check=check_tar, seeds=seed_tars, share=0.2),
    "image": Target(check=check_image, seeds=seed_images, share=0.3),
    "mask": Target(check=check_mask, seeds=seed_images, share=0.1),
    "json": Target(check=check_json, seeds=seed_json, share=0.1),
    "parquet": Target(check=check_parquet, seeds=seed_parquet, share=0.1),
    "receipt": Target(check=check_receipt, seeds=seed_receipts, share=0.1),
    "manifest": Target(check=check_manifest, seeds=seed_manifests, share=0.05),
    "claim": Target(check=check_claim, seeds=seed_claims, share=0.05),
}
