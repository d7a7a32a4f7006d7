"""Several concepts in one pass, against each of them by itself with the others for distractors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.diffusion.model import LatentDiffusion, load_model
from engine.diffusion.prompt import ConceptPrompt
from engine.distillation.weights import ConceptModel
from engine.labelling.attend import attend, attend_each
from engine.labelling.label import Label
from engine.labelling.labeller import Labeller
from engine.labelling.overlap import share_pixels
from engine.labelling.passes import Passes
from engine.labelling.several import SeveralLabeller
from engine.labelling.spec import LabelSpec, RefinementSpec, SeveralSpec
from engine.miniature import model_path
from engine.miniature.scenes import draw_scene
from tests.diffusion.models import make_model

CONCEPTS = ("car", "dog", "human")
KNOWN = ("car", "fire truck", "human")
"""To models with random weights."""
KEYS = ["a", "b"]


def several(**changes) -> SeveralSpec:
    values = {
        "timesteps": 10,
        "attention_steps": 5,
        "propagation_steps": 2,
        "presence_steps": 3,
        "presence_threshold": -1e9,
        "seed": 5,
        "refinement": RefinementSpec(inpaint_steps=2, solver="dpm++"),
        **changes,
    }
    concepts = values.pop("concepts", CONCEPTS)
    specs = [LabelSpec(concept=concept, prompt=f"a photo of a {concept}", **values) for concept in concepts]
    return SeveralSpec(specs=tuple(specs))


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def letterbox() -> torch.Tensor:
    valid = torch.ones(2, 16, 16, dtype=torch.bool)
    valid[0, 10:], valid[1, :, 7:] = False, False
    return valid


def images() -> list[np.ndarray]:
    """Scenes with two things, of sizes of their own."""
    return [draw_scene(2, number, objects=2).image[: 128 - 40 * number] for number in range(2)]


def load() -> LatentDiffusion:
    """The bundled model: what a model with random weights finds is hardly ever worth painting over."""
    return load_model(model_path())


def prompts_of(model, spec: SeveralSpec) -> list[ConceptPrompt]:
    return [ConceptPrompt.parse(model.tokenizer, own.prompt, [own.concept]) for own in spec.specs]


def count_passes(model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Latents of every pass of the model's U-Net from now on."""
    seen: list[int] = []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda z, *a, **k: seen.append(len(z)) or forward(z, *a, **k))
    return seen


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("sd1", {}),
        ("sd1", {"distractors": ("a photo of grass",)}),
        ("sd1", {"draws": 2, "propagation_steps": 0}),
        ("sd1", {"presence_steps": 0}),
        ("sd2", {}),
    ],
)
def test_each_concept_gets_what_it_gets_by_itself_with_the_others_for_distractors(kind, changes):
    model, spec, valid = make_model(kind), several(concepts=KNOWN, **changes), letterbox()
    prompts = prompts_of(model, spec)
    together = attend_each(model, latents(), KEYS, prompts, spec.specs[0], valid=valid, batch_size=7)
    for concept, prompt, found in zip(KNOWN, prompts, together, strict=True):
        alone = attend(model, latents(), KEYS, prompt, spec.of(concept), valid=valid)
        for name in ("maps", "presence", "advantage"):
            expected = getattr(alone, name)
            torch.testing.assert_close(getattr(found, name), expected, rtol=1e-4, atol=2e-6, equal_nan=True)
    if spec.specs[0].presence_steps:  # the others do say something
        without = attend(model, latents(), KEYS, prompts[0], spec.specs[0], valid=valid)
        assert not torch.allclose(without.advantage, together[0].advantage, atol=1e-4)


def test_words_of_one_prompt_are_no_distractors_of_each_other():
    """An error is no smaller than itself: each would be told that it explains nothing."""
    model, text = make_model("sd1"), "a photo of a human with a fire truck"
    specs = tuple(replace(own, prompt=text) for own in several(concepts=("human", "fire truck")).specs)
    prompts = prompts_of(model, SeveralSpec(specs=specs))
    for own, prompt, found in zip(specs, prompts, attend_each(model, latents(), KEYS, prompts, specs[0]), strict=True):
        assert SeveralSpec(specs=specs).of(own.concept) == own
        alone = attend(model, latents(), KEYS, prompt, own)
        for name in ("maps", "presence", "advantage"):
            torch.testing.assert_close(getattr(found, name), getattr(alone, name), rtol=1e-4, atol=2e-6)


def test_words_of_one_prompt_are_looked_for_in_one_pass(monkeypatch):
    model, text = make_model("sd1"), "a photo of a human with a fire truck"
    specs = [replace(own, prompt=text) for own in several(concepts=("human", "fire truck")).specs]
    other = several(concepts=("car",)).specs[0]
    mixed = SeveralSpec(specs=(specs[0], other, specs[1]))
    expected = [
        attend(model, latents(), KEYS, prompt, mixed.of(prompt.concepts[0])).maps for prompt in prompts_of(model, mixed)
    ]
    seen = count_passes(model, monkeypatch)
    found = attend_each(model, latents(), KEYS, prompts_of(model, mixed), mixed.specs[0])
    # 2 images: 5 timesteps of the first look at two texts; the second look as ever
    assert sum(seen) == 2 * (2 * 5 + 4 + 3) == 2 * Passes.of(mixed).attention
    for own, maps in zip(found, expected, strict=True):
        torch.testing.assert_close(own.maps, maps, rtol=1e-4, atol=2e-6)
    assert not torch.allclose(found[0].maps, found[2].maps, atol=1e-3)


def test_one_prompt_among_several_gets_bit_for_bit_what_it_gets_alone():
    model, spec = make_model("sd1"), several().specs[0]
    prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
    (found,) = attend_each(model, latents(), KEYS, [prompt], spec)
    alone = attend(model, latents(), KEYS, prompt, spec)
    assert all(torch.equal(getattr(found, name), getattr(alone, name)) for name in ("maps", "presence", "advantage"))


def test_the_passes_grow_with_the_concepts_and_not_with_their_square(monkeypatch):
    model, spec = make_model("sd1"), several(concepts=KNOWN)
    seen = count_passes(model, monkeypatch)
    attend_each(model, latents(), KEYS, prompts_of(model, spec), spec.specs[0])
    # 2 images: 5 timesteps of each first look; in the second, steps {0, 1, 2, 4} without words, {0, 2, 4} under y_b
    assert sum(seen) == 2 * (3 * 5 + 4 + 3)


@pytest.mark.parametrize("changes", [{}, {"distractors": ("a photo of grass",), "draws": 2}, {"presence_steps": 0}])
def test_the_passes_are_as_many_as_they_are_told_to_be(monkeypatch, changes):
    model, spec = load(), several(**changes)
    seen = count_passes(model, monkeypatch)
    labeller = SeveralLabeller(model, spec)
    labeller(images()[:1], ["a"], stage="preliminary")
    assert sum(seen) == Passes.of(spec).attention
    seen.clear()
    (labels,) = labeller(images()[:1], ["a"])
    assert all(label.signals for label in labels), "nothing was painted"
    assert sum(seen) == Passes.of(spec).attention + Passes.of(spec).inpainting


def weights_of(seed: int, method: str = "lora") -> bytes:
    """An m′ of its own, as if it were trained."""
    concept = ConceptModel(load(), method, rank=2)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in concept.trainable().values():
            # What two factors of an adapter change is their product.
            parameter += (0.2 if method == "lora" else 0.05) * torch.randn(parameter.shape, generator=g)
    return concept.pack(rank=2, notes={})


def label_apart(spec: SeveralSpec, weights: Sequence[bytes | None]) -> list[list[Label]]:
    """Each concept by a labeller of its own, on a model of its own; then the pixels are shared."""
    found = [
        Labeller(load(), spec.of(concept), weights=data)(images(), KEYS)
        for concept, data in zip(CONCEPTS, weights, strict=True)
    ]
    return share_pixels(CONCEPTS, found)


def check_same(found: list[list[Label]], expected: list[list[Label]]) -> None:
    assert [[label.concept for label in labels] for labels in found] == [list(CONCEPTS)] * len(expected)
    pairs = [pair for two in zip(found, expected, strict=True) for pair in zip(*two, strict=True)]
    for label, other in pairs:
        assert (label.mask != other.mask).mean() < 0.01
        assert label.mask.shape == other.mask.shape and label.flags == other.flags
        assert label.presence == pytest.approx(other.presence, abs=1e-4)
        assert label.quality == pytest.approx(other.quality, abs=0.02)
        assert np.abs(label.heatmap.astype(int) - other.heatmap).max() <= 1
    assert any(label.mask.any() for label, _ in pairs)


@pytest.mark.parametrize("stage", ["preliminary", "refined"])
def test_labels_are_those_of_a_labeller_of_each_with_their_pixels_shared(stage):
    spec = several().at(stage)
    found = SeveralLabeller(load(), spec)(images(), KEYS)
    check_same(found, label_apart(spec, [None] * 3))
    for labels in found:
        assert np.sum([label.mask for label in labels], 0).max() <= 1


@pytest.mark.parametrize("methods", [("lora", "lora", "lora"), ("full", "lora", "full")])
def test_each_concept_is_painted_over_by_its_own_m_prime_on_one_m(methods):
    spec = several()
    weights = [weights_of(seed, method) for seed, method in enumerate(methods)]
    model = load()
    labeller = SeveralLabeller(model, spec, weights=weights)
    unets = [one.distilled().unet for one in labeller.each]
    assert len({model.unet, *unets}) == 4
    assert not any("lora" in name for unet in (model.unet, *unets) for name, _ in unet.named_modules())
    found = labeller(images(), KEYS)
    check_same(found, label_apart(spec, weights))
    others = label_apart(spec, [*weights[1:], weights[0]])
    assert any((a.mask != b.mask).any() for two in zip(found, others, strict=True) for a, b in zip(*two, strict=True))


def test_an_image_gets_the_same_labels_alone_and_in_company():
    labeller = SeveralLabeller(load(), several())
    together, alone = labeller(images(), KEYS), labeller(images()[1:], KEYS[1:])
    check_same([together[1]], alone)
    assert labeller([], []) == []


def test_the_steps_of_all_concepts_are_in_one_account():
    labeller = SeveralLabeller(load(), several())
    labeller(images()[:1], KEYS[:1])
    seconds = labeller.stopwatch.take()
    assert seconds.keys() == {"encode", "attention", "mixture", "inpainting", "refinement", "overlap"}
    assert all(value > 0 for value in seconds.values())


def test_a_smaller_batch_is_one_for_every_concept():
    labeller = SeveralLabeller(load(), several(), batch_size=16)
    assert [one.batch_size for one in labeller.each] == [16] * 3
    labeller.batch_size = 3
    assert labeller.batch_size == 3 and {one.batch_size for one in labeller.each} == {3}


def test_the_settings_of_several_survive_the_fingerprint_and_name_what_each_is_labelled_with():
    spec = several(distractors=("a photo of grass",), presence_threshold=-0.02)
    fields = spec.fingerprint_fields()
    assert SeveralSpec.from_fingerprint(fields) == spec
    assert (fields["concept"], fields["concepts"]) == ("car, dog, human", list(CONCEPTS))
    own = spec.of("human")
    assert own.distractors == ("a photo of grass", "a photo of a car", "a photo of a dog")
    assert replace(own, distractors=spec.specs[2].distractors) == spec.specs[2]
    # Nothing is asked of the others, and nothing taken from them.
    unasked = several(presence_steps=0, presence_threshold=-0.02)
    assert unasked.of("car") == unasked.specs[0]
    with pytest.raises(ValueError, match="no 'bird' among car, dog, human"):
        spec.of("bird")
    with pytest.raises(ValueError, match=r"several concepts are of version 3, this program's of"):
        SeveralSpec.from_fingerprint({**fields, "several_version": 3})


def test_any_setting_of_any_concept_is_another_fingerprint():
    spec = several()
    fields = spec.fingerprint_fields()
    assert several(seed=6).fingerprint_fields() != fields
    first, *others = spec.specs
    for changed in (replace(first, prompt="one car"), replace(first, concept="a car", prompt="a photo of a car")):
        assert SeveralSpec(specs=(changed, *others)).fingerprint_fields() != fields
    assert SeveralSpec(specs=(*others, first)).fingerprint_fields() != fields
