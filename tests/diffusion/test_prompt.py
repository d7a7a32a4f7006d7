"""Where the concept stands among the tokens of the prompt."""

from __future__ import annotations

import pytest
import torch

from engine.diffusion.prompt import ConceptPrompt, PromptError, check_apart, locate_concept
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


def refusal(*prompts: str, background: str | None = "grass", distractors: tuple[str, ...] = ()) -> str:
    with pytest.raises(PromptError) as refused:
        check_apart(make_tokenizer(length=7), prompts, background=background, distractors=distractors)
    return str(refused.value)


@pytest.mark.parametrize("same", ["A Photo of a CAR", "a photo of a car ", " a  photo of a car"])
def test_texts_that_are_the_same_tokens_are_refused_whatever_is_asked_with_them(same: str) -> None:
    prompt = "a photo of a car"
    of_it = f"is to the model the same as the prompt {prompt!r}; ask for something else"
    assert f"the distractor {same!r} {of_it}" in refusal(prompt, distractors=("truck", same))
    assert f"the background prompt {same!r} {of_it}" in refusal(prompt, background=same)
    assert f"the prompt {same!r} {of_it}" in refusal(prompt, same)
    assert "the same as the background prompt 'grass'" in refusal(prompt, distractors=("Grass",))
    assert "the same as the distractor 'truck'" in refusal(prompt, distractors=("truck", "Truck"))


def test_a_distractor_or_background_prompt_that_is_cut_off_or_a_distractor_of_nothing_is_refused() -> None:
    long = "a photo of a fire truck"
    cut = "has 8 tokens, the model reads 7: its end is cut off; shorten it"
    assert f"the distractor {long!r} {cut}" in refusal("car", distractors=(long,))
    assert f"the background prompt {long!r} {cut}" in refusal("car", background=long)
    assert "the distractor ' ' asks for nothing" in refusal("car", distractors=(" ",))


def test_prompts_that_differ_and_words_of_one_prompt_are_asked_for() -> None:
    one = "a human with arms and legs"
    check_apart(make_tokenizer(), [one, one, "a car"], background="", distractors=("truck", "grass"))
    check_apart(make_tokenizer(length=5), ["a car on grass and water"], background=None, distractors=())
