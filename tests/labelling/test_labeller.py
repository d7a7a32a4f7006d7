"""Images of all sizes in, labels at their own size out; no Ray needed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from engine.diffusion.prompt import PromptError
from engine.labelling.heatmap import bytes_to_advantage
from engine.labelling.labeller import Labeller, bounding_box
from engine.labelling.spec import LabelSpec, RefinementSpec
from tests.diffusion.models import make_model

SIZES = [(128, 128), (90, 60), (33, 77), (300, 10)]


def spec(**changes) -> LabelSpec:
    return LabelSpec(
        **{
            "concept": "car",
            "prompt": "a photo of a car",
            "timesteps": 4,
            "attention_steps": 2,
            "presence_threshold": -1,
            "refinement": RefinementSpec(inpaint_steps=2),
            **changes,
        }
    )


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in SIZES]


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_every_image_gets_a_label_at_its_own_size(kind):
    labels = Labeller(make_model(kind), spec())(images(), list("abcd"))
    for (width, height), label in zip(SIZES, labels, strict=True):
        assert label.mask.shape == (height, width) and label.mask.dtype == bool
        assert label.heatmap.shape == label.preliminary_mask.shape
        assert max(label.heatmap.shape) == 16 and label.heatmap.dtype == np.uint8
        assert label.area == pytest.approx(label.mask.mean()) and 0 <= label.quality <= 1
        x, y, w, h = label.bbox
        outside = label.mask.copy()
        outside[y : y + h, x : x + w] = False
        assert not outside.any()


def test_a_label_depends_on_image_and_key_not_on_the_batch():
    labeller = Labeller(make_model(), spec())
    together = labeller(images(), list("abcd"))
    for index, (image, key) in enumerate(zip(images(), "abcd", strict=True)):
        (alone,) = labeller([image], [key])
        assert np.abs(alone.heatmap.astype(int) - together[index].heatmap).max() <= 1
        assert np.mean(alone.mask != together[index].mask) < 0.01


def test_masks_and_their_quality_come_from_the_heatmap_weighed_with_the_advantage():
    image, model = images()[0], make_model()
    weighed, alone = (Labeller(model, spec(advantage_power=power))([image], ["a"])[0] for power in (30.0, 0.0))
    assert (weighed.mask != alone.mask).any() and (weighed.heatmap == alone.heatmap).all()
    for label, power in ((weighed, 30.0), (alone, 0.0)):
        heat = label.heatmap * np.exp(power * bytes_to_advantage(label.advantage))
        covered = label.mask.reshape(16, 8, 16, 8).mean((1, 3))
        agreement = np.corrcoef(heat.ravel(), covered.ravel())[0, 1]
        assert label.signals.agreement == pytest.approx(agreement, abs=0.02)  # A is kept in steps of 1/512
    assert abs(weighed.signals.agreement - alone.signals.agreement) > 0.05


def test_a_constant_image_is_labelled_and_no_batch_is_empty():
    labeller = Labeller(make_model(), spec())
    (label,) = labeller([np.full((40, 40, 3), 255, np.uint8)], ["white"])
    assert label.mask.shape == (40, 40)
    assert labeller([], []) == []


def test_a_concept_that_the_model_does_not_know_is_refused_at_once():
    with pytest.raises(PromptError, match="zebra"):
        Labeller(make_model(), spec(concept="zebra", prompt="a photo of a zebra"))


def test_the_bounding_box_is_the_smallest():
    mask = np.zeros((9, 7), bool)
    assert bounding_box(mask) == (0, 0, 0, 0)
    mask[2:5, 3:6] = True
    assert bounding_box(mask) == (3, 2, 3, 3)


def test_a_batch_is_labelled_where_ray_and_webdataset_cannot_be_imported():
    code = """
import sys
sys.modules["ray"] = sys.modules["webdataset"] = None  # importing either now fails
import numpy as np
import engine.evaluation.evaluate, engine.run.shard
from engine.labelling.labeller import Labeller
from engine.labelling.spec import LabelSpec
from tests.diffusion.models import make_model
spec = LabelSpec(concept="car", prompt="a photo of a car", timesteps=2, attention_steps=1)
print(len(Labeller(make_model(), spec)([np.zeros((64, 64, 3), np.uint8)] * 2, ["a", "b"])))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "2"


def test_a_mask_that_the_image_has_no_pixel_for_is_empty_by_its_flags_too():
    labeller = Labeller(make_model(), spec())
    tiny = [np.full((size, size, 3), 100, np.uint8) for size in (1, 2, 3)]
    noisy = [image + np.random.default_rng(0).integers(0, 99, image.shape, np.uint8) for image in tiny]
    labels = labeller([*tiny, *noisy], list("abcdef"))
    labels += labeller([*tiny, *noisy], list("abcdef"), stage="preliminary")
    for label in labels:
        assert bool({"empty", "absent"} & set(label.flags)) == (not label.mask.any())
        assert ("full" in label.flags) == label.mask.all()
    assert any(not label.mask.any() for label in labels), "or nothing was tested"
