"""m and m′ of one ConceptModel, and the file of an m′."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import load, save

from engine.diffusion.model import LatentDiffusion, ModelError
from engine.distillation.notes import read_notes
from engine.distillation.weights import ConceptModel
from tests.diffusion.models import make_model

KINDS = ["sd1", "sd2"]
METHODS = ["lora", "full"]
RANK = 3


@torch.no_grad()
def output(model: LatentDiffusion) -> torch.Tensor:
    g = torch.Generator().manual_seed(4)
    zt, context = torch.randn(2, 4, 16, 16, generator=g), torch.randn(2, 20, 32, generator=g)
    return model.unet(zt, torch.tensor([10, 700]), context).sample


def tune(model: LatentDiffusion, method: str) -> ConceptModel:
    """As if trained: every trainable parameter moves at random."""
    concept = ConceptModel(model, method, rank=RANK)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in concept.trainable().values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g)
    concept.distilled().unet.requires_grad_(False)
    return concept


@pytest.fixture(scope="module")
def originals():
    return {kind: output(make_model(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def tuned():
    """(m and m′, the file of m′) by kind and method; read only."""
    concepts = {(kind, method): tune(make_model(kind), method) for kind in KINDS for method in METHODS}
    return {key: (concept, concept.pack(rank=RANK, notes={"made": "here"})) for key, concept in concepts.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing(originals, kind):
    concept = ConceptModel(make_model(kind), "lora", rank=RANK)
    torch.testing.assert_close(output(concept.distilled()), originals[kind], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_m_stays_what_it_was_bit_for_bit_beside_m_prime(originals, tuned, kind, method):
    concept, _ = tuned[kind, method]
    distilled = output(concept.distilled())
    assert not torch.allclose(distilled, originals[kind], rtol=0.05)
    assert torch.equal(output(concept.original()), originals[kind])
    assert torch.equal(output(concept.distilled()), distilled)  # and back


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_m_prime_loads_as_the_same_function(originals, tuned, kind, method):
    concept, data = tuned[kind, method]
    loaded = ConceptModel.load(make_model(kind), data)
    assert torch.equal(output(loaded.distilled()), output(concept.distilled()))
    assert torch.equal(output(loaded.original()), originals[kind])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_are_the_same_functions_without_adapters(originals, tuned, kind, method):
    concept, data = tuned[kind, method]
    merged = ConceptModel.load(make_model(kind), data).merged()
    torch.testing.assert_close(output(merged.distilled()), output(concept.distilled()), rtol=1e-4, atol=1e-5)
    assert torch.equal(output(merged.original()), originals[kind])
    for model in (merged.original(), merged.distilled()):
        assert not any("lora" in name for name, _ in model.unet.named_modules())


@pytest.mark.parametrize("method", METHODS)
def test_a_file_tells_its_notes_its_method_and_its_rank(tuned, method):
    notes = read_notes(tuned["sd1", method][1])
    assert notes == {"made": "here", "method": method, "rank": str(RANK), "format": "pt"}


def test_adapters_train_and_nothing_else():
    concept = ConceptModel(make_model("sd1"), "lora", rank=RANK)
    names = set(concept.trainable())
    asked = {name for name, p in concept.distilled().unet.named_parameters() if p.requires_grad}
    assert names == asked and names and all(".lora_" in name for name in names)
    for part in ("attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "conv1", "conv2"):
        assert any(f".{part}.lora_" in name for name in names), part


def test_with_full_all_of_the_unet_trains_and_nothing_of_m():
    model = make_model("sd1")
    concept = ConceptModel(model, "full", rank=RANK)
    assert len(concept.trainable()) == len(list(model.unet.parameters()))
    assert not any(p.requires_grad for p in model.unet.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_packed_adapters_as_the_same_function(tuned, kind):
    concept, data = tuned[kind, "lora"]
    model = make_model(kind)
    model.unet.load_lora_adapter(load(data), prefix="unet")
    torch.testing.assert_close(output(model), output(concept.distilled()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("source", "target"), [("sd1", "sd2"), ("sd2", "sd1"), ("sd1", "miniature")])
def test_weights_of_another_model_are_refused(tuned, source, target, method):
    with pytest.raises(ModelError, match="do not belong to this model"):
        ConceptModel.load(make_model(target), tuned[source, method][1])


@pytest.mark.parametrize("method", METHODS)
def test_a_file_that_lacks_a_layer_is_refused(tuned, method):
    data = tuned["sd1", method][1]
    tensors = load(data)
    del tensors[sorted(tensors)[0]]
    with pytest.raises(ModelError, match="do not belong to this model"):
        ConceptModel.load(make_model("sd1"), save(tensors, metadata=read_notes(data)))


def change_notes(data: bytes, **changes: str | None) -> bytes:
    return save(load(data), metadata={k: v for k, v in {**read_notes(data), **changes}.items() if v is not None})


DAMAGES = {
    "empty": lambda data: b"",
    "garbage": lambda data: b"this is no file of weights",
    "zeros": lambda data: bytes(64),
    "pickled": lambda data: pickle.dumps({"unet": 1}),
    "cut off": lambda data: data[: len(data) // 2],
    "without notes": lambda data: save(load(data)),
    "without a method": lambda data: change_notes(data, method=None),
    "without a rank": lambda data: change_notes(data, rank=None),
    "of an odd rank": lambda data: change_notes(data, rank="many"),
    "of no rank at all": lambda data: change_notes(data, rank="0"),
    "of another method": lambda data: change_notes(data, method="full"),
    "without weights": lambda data: save({}, metadata=read_notes(data)),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_file_that_is_no_m_prime_is_refused(tuned, what):
    with pytest.raises(ModelError, match="do not belong to this model"):
        ConceptModel.load(make_model("sd1"), DAMAGES[what](tuned["sd1", "lora"][1]))
