from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.corpus.catalogue import list_shards
from engine.corpus.lease import plan_leases
from engine.corpus.reader import open_lease
from engine.corpus.sample import Sample
from engine.labelling.label import USELESS
from engine.labelling.spec import LabelSpec
from engine.run.fake import FakeSynthesizer
from engine.synthesis.sample import SyntheticSample, members_to_tar, sample_to_members, without_object
from engine.synthesis.spec import SynthesisSpec

SPEC = LabelSpec(concept="car", prompt="a photo of a car")


@pytest.fixture(scope="module")
def samples() -> list[SyntheticSample]:
    """Five samples, the last of which is a pure background."""
    return FakeSynthesizer("fake", SPEC, SynthesisSpec(strength=1, backgrounds=0.2))(range(5), [None] * 5)


def members(sample: SyntheticSample) -> dict[str, bytes]:
    return sample_to_members(sample, concept="car", seed=3, fingerprint="f")


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def tar_of(samples: list[SyntheticSample]) -> bytes:
    return members_to_tar((sample.key, members(sample)) for sample in samples)


def test_image_mask_and_background_survive_and_the_cut_out_is_the_object_alone(samples: list[SyntheticSample]) -> None:
    sample = samples[0]
    found = members(sample)
    mask = sample.label.mask
    assert 0 < mask.mean() < 1
    assert np.array_equal(pixels(found["png"]), sample.image)
    assert np.array_equal(pixels(found["mask.png"]), mask)
    assert Image.open(io.BytesIO(found["mask.png"])).mode == "1"
    assert np.array_equal(pixels(found["background.png"]), sample.label.background)
    cutout = pixels(found["foreground.png"])
    assert np.array_equal(cutout[..., 3], np.where(mask, 255, 0))
    assert np.array_equal(cutout[mask, :3], sample.image[mask])
    assert not cutout[~mask].any()


def test_a_pure_background_is_its_own_background_and_has_no_object(samples: list[SyntheticSample]) -> None:
    found = members(samples[4])
    assert np.array_equal(pixels(found["background.png"]), pixels(found["png"]))
    assert not pixels(found["foreground.png"]).any() and not pixels(found["mask.png"]).any()
    assert found["txt"] == b"a photo of a background"


def test_the_facts_say_how_a_sample_was_made(samples: list[SyntheticSample]) -> None:
    facts = json.loads(members(samples[4])["json"])
    assert facts == {
        "concept": "car",
        "prompt": "a photo of a background",
        "guidance": SynthesisSpec.background_guidance,
        "seed": 3,
        "index": 4,
        "background": True,
        "start": None,
        "fingerprint": "f",
    }


def test_a_sample_that_nothing_was_painted_over_in_has_no_background(samples: list[SyntheticSample]) -> None:
    bare = replace(samples[0], label=replace(samples[0].label, background=None))
    assert "background.png" not in members(bare)


def test_the_tar_has_no_times_and_no_owners(samples: list[SyntheticSample]) -> None:
    data = tar_of(samples)
    assert data == tar_of(samples)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_the_corpus_reader_finds_one_image_a_sample_and_no_defect(
    samples: list[SyntheticSample], tmp_path: Path
) -> None:
    (tmp_path / "000000.tar").write_bytes(tar_of(samples))
    (tmp_path / "000001.tar").write_bytes(members_to_tar([]))
    first, empty = plan_leases(list_shards(str(tmp_path)))
    with open_lease(first, masks=True) as reader, open_lease(empty) as nothing:
        found = list(reader)
        assert not [item for item in nothing if isinstance(item, Sample)]
    assert all(isinstance(item, Sample) for item in found)
    for item, sample in zip(found, samples, strict=True):
        assert isinstance(item, Sample)
        assert item.key == sample.key and item.caption == sample.prompt
        assert np.array_equal(pixels(item.image), sample.image)
        assert list(item.masks) == [""]
        assert np.array_equal(pixels(item.masks[""]), sample.label.mask)
        assert item.metadata["index"] == sample.index


def test_webdataset_reads_the_tar(samples: list[SyntheticSample], tmp_path: Path) -> None:
    import webdataset

    (tmp_path / "000000.tar").write_bytes(tar_of(samples))
    read = list(webdataset.WebDataset(str(tmp_path / "000000.tar"), shardshuffle=False, empty_check=False))
    assert [one["__key__"] for one in read] == [sample.key for sample in samples]
    for one, sample in zip(read, samples, strict=True):
        assert {name for name in one if not name.startswith("__")} == set(members(sample))


@pytest.mark.parametrize(
    ("presence", "flags", "wanted", "quality"),
    [
        (-0.2, ["absent"], ["background"], 1.0),
        (0.2, ["touches_border"], ["background", "object_likely"], 0.0),
        (float("nan"), [], ["background"], 1.0),
    ],
)
def test_a_background_that_the_model_finds_the_concept_in_is_flagged(
    samples: list[SyntheticSample], presence: float, flags: list[str], wanted: list[str], quality: float
) -> None:
    label = without_object(replace(samples[0].label, presence=presence, flags=flags))
    assert label.flags == wanted and label.quality == quality
    assert not label.mask.any() and not label.preliminary_mask.any()
    assert label.area == 0 and label.bbox == (0, 0, 0, 0)
    assert (presence > 0) == bool(USELESS & set(label.flags))
