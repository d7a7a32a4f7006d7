"""Where the concept stands among the tokens of the prompt."""

from __future__ import annotations

import pytest
import torch

from engine.diffusion.prompt import ConceptPrompt, PromptError, locate_concept
from tests.diffusion.models import make_tokenizer


def tokens_at(tokenizer, prompt: str, positions: list[int]) -> list[str]:
    ids = tokenizer(prompt, padding="max_length", truncation=True).input_ids
    return tokenizer.convert_ids_to_tokens([ids[p] for p in positions])


def test_the_concept_is_found_by_its_tokens():
    tokenizer = make_tokenizer()
    positions = locate_concept(tokenizer, "a photo of a car", "car")
    assert tokens_at(tokenizer, "a photo of a car", positions) == ["car"]


def test_a_phrase_takes_all_its_tokens():
    tokenizer = make_tokenizer()
    positions = locate_concept(tokenizer, "a photo of a fire truck on grass", "fire truck")
    assert tokens_at(tokenizer, "a photo of a fire truck on grass", positions) == ["fire", "truck"]


def test_every_occurrence_counts():
    assert len(locate_concept(make_tokenizer(), "a car on a car", "car")) == 2


def test_several_concepts_of_one_prompt_get_a_row_each():
    prompt = ConceptPrompt.parse(make_tokenizer(), "a photo of a human with arms and legs", ["arms", "legs", "human"])
    assert prompt.selector.shape == (3, 20)
    assert torch.equal(prompt.selector.sum(1), torch.ones(3))
    assert len(set(prompt.selector.argmax(1).tolist())) == 3


def test_an_unknown_word_is_refused_with_the_known_ones():
    with pytest.raises(PromptError, match=r"does not know 'zebra'.*car"):
        locate_concept(make_tokenizer(), "a photo of a zebra", "zebra")


def test_a_concept_that_the_prompt_lacks_is_refused():
    with pytest.raises(PromptError, match="does not contain the concept 'truck'"):
        locate_concept(make_tokenizer(), "a photo of a car", "truck")


def test_a_concept_that_the_length_limit_cuts_off_is_refused():
    with pytest.raises(PromptError, match="cut off"):
        locate_concept(make_tokenizer(length=6), "a photo of a fire truck", "fire truck")
