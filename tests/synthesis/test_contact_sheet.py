from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from engine.labelling.spec import LabelSpec
from engine.run.fake import FakeSynthesizer
from engine.synthesis.contact_sheet import write_contact_sheet
from engine.synthesis.sample import members_to_tar, sample_to_members
from engine.synthesis.spec import SynthesisSpec

RED, BLUE = (200, 0, 0), (0, 0, 200)


def write_tar(path: Path, count: int, *, background: bool = True) -> None:
    """Red images, of which all is object, before blue backgrounds."""
    synthesizer = FakeSynthesizer(
        "fake", LabelSpec(concept="car", prompt="a car"), SynthesisSpec(strength=1, backgrounds=0)
    )
    made = synthesizer(range(count), [None] * count)
    samples = []
    for sample in made:
        behind = np.full_like(sample.image, BLUE) if background else None
        label = replace(sample.label, mask=np.ones_like(sample.label.mask), background=behind)
        samples.append(replace(sample, image=np.full_like(sample.image, RED), label=label))
    members = [(s.key, sample_to_members(s, concept="car", seed=0, fingerprint="f")) for s in samples]
    path.write_bytes(members_to_tar(members))


def count_colour(path: Path, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(Image.open(path)) == colour).all(2).sum())


def test_the_sheet_shows_image_cut_out_background_and_mask_in_equal_size(tmp_path: Path) -> None:
    write_tar(tmp_path / "000000.tar", 1)
    write_contact_sheet([str(tmp_path / "000000.tar")], "car", str(tmp_path / "sheet.png"))
    one = count_colour(tmp_path / "sheet.png", BLUE)
    assert one > 10_000
    assert count_colour(tmp_path / "sheet.png", RED) == 2 * one
    assert count_colour(tmp_path / "sheet.png", (255, 255, 255)) >= one


def test_samples_are_taken_from_shards_all_over_the_set_and_some_have_no_background(tmp_path: Path) -> None:
    for number in range(9):
        write_tar(tmp_path / f"{number}.tar", 6, background=False)
    shards = [str(tmp_path / f"{number}.tar") for number in range(9)]
    write_contact_sheet(shards, "car", str(tmp_path / "sheet.png"), count=7)
    write_contact_sheet(shards[:1], "car", str(tmp_path / "one.png"), count=1)
    one = count_colour(tmp_path / "one.png", RED)
    assert count_colour(tmp_path / "sheet.png", RED) == 7 * one
    assert count_colour(tmp_path / "sheet.png", BLUE) == 0
