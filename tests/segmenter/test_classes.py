"""A segmenter of several concepts: its examples, its loss, its classes and its ONNX file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.corpus import Lease, list_shards
from engine.segmenter.crops import draw_batch
from engine.segmenter.examples import Example, read_examples
from engine.segmenter.export import compare_onnx, segmenter_to_onnx
from engine.segmenter.files import SegmenterConfig
from engine.segmenter.labeller import SegmenterLabeller
from engine.segmenter.pictures import COLOURS, draw_predictions
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.spec import SegmenterSpec
from engine.segmenter.train import train_segmenter
from engine.segmenter.unet import build_unet
from tests.segmenter.bright import to_png, write_tar
from tests.segmenter.coloured import CONCEPTS, SIZE, draw_scene
from tests.segmenter.test_examples import row, write_rows

CONFIG = SegmenterConfig(concept="car, dog", concepts=CONCEPTS, width=2, short_side=SIZE)
SPEC = SegmenterSpec(steps=3, batch_size=4, crop=32, short_side=SIZE, width=2, warmup=1)


class Colours(nn.Module):
    """Stands for a perfect network: red is a car, blue a dog."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.zeros_like(x[:, 0]), 9 * x[:, 0], 9 * x[:, 2]], 1)


def read(corpus: Path, labels: Path | None, **options: Any) -> tuple[dict[str, Example], dict[str, int]]:
    tally: Counter[str] = Counter()
    leases = [Lease(shard=shard) for shard in list_shards(str(corpus))]
    spec, url = options.pop("spec", SPEC), str(labels) if labels else None
    found = {e.key: e for e in read_examples(url, leases, spec, tally, concept=CONCEPTS, **options)}
    return found, dict(+tally)


def test_labels_of_an_image_become_classes_and_one_bad_label_leaves_it_out_once(tmp_path: Path) -> None:
    keys = [f"{n:03d}" for n in range(8)]
    image, classes = draw_scene(2)
    assert set(np.unique(classes)) == {0, 1, 2}
    write_tar(tmp_path / "corpus" / "000000.tar", {f"{key}.png": to_png(image) for key in keys})
    nothing = np.zeros_like(classes, bool)
    changes: dict[str, tuple[dict, dict]] = {
        "000": ({}, {}),
        "001": ({}, {"mask": nothing, "flags": ["one_mode", "absent"], "quality": 0.0}),
        "002": ({"mask": nothing, "flags": ["absent"], "quality": 0.0},) * 2,
        "003": ({}, {"flags": ["empty"]}),
        "004": ({"quality": 0.1}, {"quality": 0.1}),
        "005": ({}, {"mask": b"no mask"}),
        "006": ({}, {"mask": nothing, "flags": ["absent"]}),
    }
    rows = []
    for key, pair in changes.items():
        for number, (name, change) in enumerate(zip(CONCEPTS, pair, strict=True), 1):
            rows.append(row(key, classes == number, **{"concept": name, **change}))
    rows.append(row("007", classes == 1, concept="car"))
    labels = write_rows(tmp_path / "labels", rows)
    spec = SegmenterSpec(**{**vars(SPEC), "min_quality": 0.3})
    found, tally = read(tmp_path / "corpus", labels, spec=spec, review={("000000.tar", "006"): "reject"})
    assert tally == {
        "used": 3,
        "flag:empty": 1,
        "low_quality": 1,
        "bad_mask": 1,
        "rejected": 1,
        "image_without_label": 1,
    }
    assert found["000"].mask.dtype == np.uint8 and np.array_equal(found["000"].mask, classes)
    assert np.array_equal(found["001"].mask, np.where(classes == 1, 1, 0)), "an absent concept is background"
    assert not found["002"].mask.any()


def test_truth_takes_each_concept_s_own_mask_and_guesses_none(tmp_path: Path) -> None:
    image, classes = draw_scene(2)
    car, dog = to_png(classes == 1), to_png(classes == 2)
    members = {
        **{f"{key}.png": to_png(image) for key in "abcd"},
        "a.car.mask.png": car,
        "a.dog.mask.png": dog,
        "b.mask.png": car,
        "b.json": b'{"concept": "car"}',
        "c.mask.png": car,  # of whom?
        "d.car.mask.png": car,  # and the dog?
    }
    write_tar(tmp_path / "000000.tar", dict(sorted(members.items())))
    found, tally = read(tmp_path, None, spec=SegmenterSpec(**{**vars(SPEC), "labels": "truth"}))
    assert tally == {"used": 2, "image_without_label": 2}
    assert np.array_equal(found["a"].mask, classes)
    assert np.array_equal(found["b"].mask, np.where(classes == 1, 1, 0)), "its JSON says that it shows no dog"


def test_the_first_loss_is_the_mean_cross_entropy_of_the_classes(tmp_path: Path) -> None:
    examples = [Example(shard="a", key=str(n), image=draw_scene(n)[0], mask=draw_scene(n)[1]) for n in range(5)]
    spec = replace(SPEC, precision="float32")
    network, history = train_segmenter(examples, spec, channels=3, checkpoint=str(tmp_path / "state"))
    images, classes = draw_batch(examples, spec, step=0)
    assert classes.shape == (4, 32, 32) and network(images).shape == (4, 3, 32, 32)
    with torch.no_grad():
        p = build_unet(2, seed=0, channels=3)(images).double().exp()
    p /= p.sum(1, keepdim=True)
    chosen = p.gather(1, classes[:, None])
    assert history.losses[0] == pytest.approx(float(-chosen.log().mean()), rel=1e-5)
    found = p.argmax(1)
    ious = [((found == c) & (classes == c)).sum() / ((found == c) | (classes == c)).sum() for c in (1, 2)]
    assert history.ious[0] == pytest.approx(float(np.mean(ious)), rel=1e-5)


@pytest.mark.parametrize("window", [0, 32])
def test_the_classes_lie_where_the_objects_are(window: int) -> None:
    image, classes = (array.repeat(2, 0).repeat(3, 1) for array in draw_scene(5))
    segmenter = Segmenter(Colours(), CONFIG, window=window)
    found = segmenter(image)
    assert found.shape == classes.shape and found.dtype == np.uint8 and segmenter.concepts == CONCEPTS
    assert (found == classes).mean() > 0.95
    (probability,) = segmenter.predict_batch([image])
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-5)
    assert Segmenter(Colours(), SegmenterConfig(concept="car", width=2, short_side=32)).concepts == ("car",)


def test_crops_of_any_size_hold_classes_and_nothing_between_them() -> None:
    image, classes = draw_scene(5)
    classes = np.where(classes == 2, np.uint8(7), classes)
    example = Example(shard="a", key="0", image=image, mask=classes)
    _, drawn = draw_batch([example], replace(SPEC, batch_size=64, scale=4.0), step=0)
    assert set(drawn.unique().tolist()) <= set(np.unique(classes).tolist())


def test_a_label_of_each_concept_has_its_class_and_no_pixel_is_in_two() -> None:
    (both, only_car) = SegmenterLabeller(Segmenter(Colours(), CONFIG))([draw_scene(2)[0], draw_scene(0)[0]], ["a", "b"])
    assert [label.concept for label in both] == list(CONCEPTS)
    for number, label in enumerate(both, 1):
        assert np.array_equal(label.mask, draw_scene(2)[1] == number) and label.quality > 0.9
    assert only_car[0].flags == [] and only_car[1].flags == ["absent"] and only_car[1].quality == 0


def test_a_mask_of_everything_is_worth_nothing() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = draw_scene(2)[0][draw_scene(2)[1] == 1].mean(0)
    ((whole, rest),) = SegmenterLabeller(Segmenter(Colours(), CONFIG))([image], ["a"])
    assert "full" in whole.flags and whole.quality == 0
    assert rest.flags == ["absent"] and rest.quality == 0


def test_a_kept_segmenter_of_several_says_the_same_and_one_of_one_is_kept_as_ever(tmp_path: Path) -> None:
    segmenter, (image, _) = Segmenter(build_unet(2, seed=3, channels=3), CONFIG), draw_scene(1)
    segmenter.save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    assert again.config == CONFIG and np.array_equal(again(image), segmenter(image))
    one = json.loads(SegmenterConfig(concept="car", width=2, short_side=48).to_json())
    assert sorted(one) == ["architecture", "concept", "features", "notes", "short_side", "width"]


def test_the_picture_shows_each_class_in_its_colour() -> None:
    examples = [Example(shard="a", key=str(n), image=draw_scene(n)[0], mask=draw_scene(n)[1]) for n in range(8)]
    pixels = np.asarray(draw_predictions(Colours(), examples, SPEC, "cpu"))
    labels = pixels[32:64].reshape(-1, 3)
    assert {tuple(map(int, colour)) for colour in np.unique(labels, axis=0)} == set(COLOURS[:3])
    assert np.abs(pixels[32:64].astype(int) - pixels[64:96]).mean() < 30, "what a perfect network says looks alike"


def test_the_picture_of_few_examples_shows_each_of_them_once() -> None:
    images = [np.full((32, 32, 3), shade, np.uint8) for shade in (0, 60, 120, 180, 240)]
    examples = [Example(shard="a", key=str(n), image=i, mask=draw_scene(0)[1][:32, :32]) for n, i in enumerate(images)]
    pixels = np.asarray(draw_predictions(Colours(), examples, SPEC, "cpu"))
    middles = pixels[16, :, 0].reshape(len(images), -1).mean(1)
    assert middles == pytest.approx([0, 60, 120, 180, 240], abs=8)


@pytest.mark.slow
def test_the_onnx_file_gives_every_class_its_probability() -> None:
    onnx = pytest.importorskip("onnx")
    segmenter = Segmenter(build_unet(2, seed=1, channels=3), CONFIG)
    data = segmenter_to_onnx(segmenter)
    assert compare_onnx(data, segmenter) < 1e-5
    notes = {note.key: note.value for note in onnx.load_from_string(data).metadata_props}
    assert json.loads(notes["concepts"]) == list(CONCEPTS)
