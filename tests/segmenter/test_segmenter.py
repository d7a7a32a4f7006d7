"""Segmenting images of any size and kind, and keeping what does it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from engine import storage
from engine.segmenter.files import SegmenterConfig, SegmenterError
from engine.segmenter.labeller import SegmenterLabeller, expected_iou
from engine.segmenter.resize import target_size
from engine.segmenter.segmenter import Segmenter, pad_to_multiple
from engine.segmenter.unet import build_unet

CONFIG = SegmenterConfig(concept="box", width=2, short_side=48, notes={"metrics": {"steps": 3}})


class Brightness(nn.Module):
    """Stands for a perfect network: brighter than mid-grey is object."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] % 16 == x.shape[-2] % 16 == 0 and min(x.shape[-2:]) >= 32
        return 20 * x.mean(1, keepdim=True)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def bright(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 4 : height // 2, width // 3 : 3 * width // 4] = 255
    return image


@pytest.fixture(scope="module")
def untrained() -> Segmenter:
    return Segmenter(build_unet(2, seed=3), CONFIG)


@pytest.mark.parametrize("size", [(48, 48), (100, 77), (480, 640), (31, 200), (7, 3), (1, 1), (1, 900)])
@pytest.mark.parametrize("window", [0, 32])
def test_the_mask_has_the_image_s_own_size_and_lies_where_the_object_is(size: tuple[int, int], window: int) -> None:
    segmenter = Segmenter(Brightness(), CONFIG, window=window)
    image = bright(*size)
    mask = segmenter(image)
    assert mask.shape == size and mask.dtype == np.bool_
    truth = image[..., 0] > 0
    if min(size) >= 31:
        assert (mask & truth).sum() / (mask | truth).sum() > 0.93


def test_images_of_several_sizes_in_one_batch_are_segmented_as_they_are_alone(untrained: Segmenter) -> None:
    images = [noise(48, 80, 1), noise(100, 77, 2), noise(48, 80, 3), noise(30, 31, 4)]
    for image, together in zip(images, untrained.predict_batch(images), strict=True):
        (alone,) = untrained.predict_batch([image])
        assert together.shape == image.shape[:2] and together.dtype == np.float32
        np.testing.assert_allclose(together, alone, atol=1e-5)


def test_what_the_network_sees_is_the_resized_image_from_minus_one_to_one(untrained: Segmenter) -> None:
    image = noise(96, 128)
    (small,) = untrained.predict_small([image])
    assert small.shape == (48, 64)
    pixels = np.asarray(Image.fromarray(image).resize((64, 48), Image.Resampling.BILINEAR)).astype(np.float32)
    with torch.no_grad():
        expected = untrained.network(torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]).sigmoid()[0, 0]
    np.testing.assert_allclose(small, expected.numpy(), atol=1e-5)


def test_padding_repeats_the_border_and_leaves_the_image_where_it_is() -> None:
    x = torch.rand(2, 3, 40, 17)
    padded = pad_to_multiple(x)
    assert padded.shape == (2, 3, 48, 32)
    assert torch.equal(padded[..., :40, :17], x)
    assert torch.equal(padded[..., :40, 20], x[..., 16]) and torch.equal(padded[..., 47, :17], x[..., 39, :])


@pytest.mark.parametrize(("size", "expected"), [((480, 640), (48, 64)), ((10, 20), (48, 96)), ((1, 5000), (1, 768))])
def test_the_short_side_is_brought_to_its_length_unless_the_long_one_got_out_of_hand(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert target_size(*size, 48) == expected


def test_a_kept_segmenter_says_the_same(untrained: Segmenter, tmp_path: Path) -> None:
    untrained.save_pretrained(tmp_path / "kept")
    again = Segmenter.from_pretrained(tmp_path / "kept")
    assert again.config == CONFIG
    (ours,), (theirs,) = untrained.predict_batch([noise(60, 50)]), again.predict_batch([noise(60, 50)])
    assert np.array_equal(ours, theirs)


def test_a_segmenter_lives_in_an_object_store(untrained: Segmenter) -> None:
    untrained.save_pretrained("memory://segmenters/box")
    assert Segmenter.from_pretrained("memory://segmenters/box").config.concept == "box"


def test_files_arrays_and_pictures_turned_by_exif_give_one_mask(tmp_path: Path) -> None:
    segmenter, image = Segmenter(Brightness(), CONFIG), bright(60, 90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(image).copy())
    turned.save(tmp_path / "turned.png", exif=exif)
    expected = segmenter(image)
    assert np.array_equal(segmenter(tmp_path / "turned.png"), expected)
    assert np.array_equal(segmenter(str(tmp_path / "turned.png")), expected)
    with Image.open(tmp_path / "turned.png") as picture:
        assert np.array_equal(segmenter(picture), expected)
    assert np.array_equal(segmenter(Image.fromarray(image).convert("CMYK")), expected)


def test_an_array_that_is_no_image_is_refused(untrained: Segmenter) -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 4\) and type float64 is no"):
        untrained(np.zeros((4, 4)))


def test_a_folder_without_a_segmenter_and_a_damaged_one_are_refused(untrained: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(SegmenterError, match=r"holds no segmenter .*jobs/train\.py"):
        Segmenter.from_pretrained(tmp_path)
    untrained.save_pretrained(tmp_path)
    storage.atomic_put(b"x" * 40, str(tmp_path / "model.safetensors"))
    with pytest.raises(SegmenterError, match="is damaged"):
        Segmenter.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    storage.atomic_put(json.dumps({**config, "width": 0}).encode(), str(tmp_path / "config.json"))
    with pytest.raises(SegmenterError, match="width is 0; it must be at least 1"):
        Segmenter.from_pretrained(tmp_path)
    storage.atomic_put(b"{}", str(tmp_path / "config.json"))
    with pytest.raises(SegmenterError, match="no configuration of a segmenter"):
        Segmenter.from_pretrained(tmp_path)


def test_a_window_that_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="window is 40"):
        Segmenter(Brightness(), CONFIG, window=40)


def test_a_label_says_what_the_probability_says() -> None:
    image = bright(96, 120)
    (label,) = SegmenterLabeller(Segmenter(Brightness(), CONFIG))([image], ["k"])
    assert label.heatmap.shape == label.preliminary_mask.shape == (48, 60)
    assert label.heatmap.max() == 255 and label.heatmap.min() == 0
    assert label.mask.shape == (96, 120) and label.bbox == (40, 24, 50, 24)
    assert label.quality > 0.9 and np.isnan(label.presence) and label.flags == []
    (empty,) = SegmenterLabeller(Segmenter(Brightness(), CONFIG))([np.zeros((50, 50, 3), np.uint8)], ["k"])
    assert (empty.flags, empty.quality, empty.bbox) == (["empty"], 0.0, (0, 0, 0, 0))


def test_the_expected_iou_is_that_of_pixels_drawn_by_their_probability() -> None:
    p = np.random.default_rng(0).random((60, 60)).astype(np.float32) ** 3
    mask = p >= 0.5
    drawn = np.random.default_rng(1).random((200, 60, 60)) < p
    simulated = np.mean([(t & mask).sum() / (t | mask).sum() for t in drawn])
    assert expected_iou(p, mask) == pytest.approx(simulated, rel=0.01)


def test_images_too_many_for_one_pass_are_segmented_in_parts(
    untrained: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [noise(48, 64, seed) for seed in range(5)]
    expected = untrained.predict_batch(images)
    monkeypatch.setattr("engine.segmenter.segmenter.BATCH_PIXELS", 2 * 48 * 64)
    for ours, theirs in zip(untrained.predict_batch(images), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
