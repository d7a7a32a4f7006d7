"""Prompts: the text y_f, and where in its token sequence the concept stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

SMALL_VOCABULARY = 1000


class PromptError(ValueError):
    """A prompt or concept that this model cannot be asked for, and why."""


def locate_concept(tokenizer: PreTrainedTokenizerBase, prompt: str, concept: str) -> list[int]:
    """Positions of the concept's tokens in the padded token sequence of the prompt; all occurrences count.

    Found by tokenizing both, so a concept of several words or of several tokens a word is located as well.

    Raises:
        PromptError: the model has no token for the concept, the prompt does not contain it, or the tokenizer's
            length limit cuts it off.
    """
    needle = tokenizer(concept, add_special_tokens=False).input_ids
    if not needle or (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in needle):
        raise PromptError(f"the model's tokenizer does not know {concept!r}{_known_words(tokenizer)}")
    limit = tokenizer.model_max_length
    whole = tokenizer(prompt, truncation=False, verbose=False).input_ids
    seen = tokenizer(prompt, truncation=True, max_length=limit).input_ids
    starts = [i for i in range(len(whole)) if whole[i : i + len(needle)] == needle]
    if not starts:
        raise PromptError(
            f"the prompt {prompt!r} does not contain the concept {concept!r}; write the concept into it word for word"
        )
    kept = [i for i in starts if i + len(needle) < len(seen)]  # the last token kept is the end-of-text token
    if not kept:
        raise PromptError(
            f"the prompt has {len(whole)} tokens, the model reads {limit}: {concept!r} is cut off; shorten the prompt"
        )
    return sorted({i + k for i in kept for k in range(len(needle))})


def check_known(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    """Raises PromptError for a prompt with words that the model has no token for."""
    if tokenizer.unk_token_id is None or tokenizer.unk_token_id == tokenizer.eos_token_id:
        return
    unknown = [word for word in prompt.split() if tokenizer.unk_token_id in tokenizer(word).input_ids]
    if unknown:
        raise PromptError(f"the model's tokenizer does not know {unknown[0]!r} of {prompt!r}{_known_words(tokenizer)}")


def check_apart(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, background: str | None, distractors: Sequence[str]
) -> None:
    """Raises PromptError where the model would be asked the same twice, is cut short, or is asked for nothing.

    Texts that differ may be the same tokens, as where case does not count.

    Args:
        prompts: of the concepts; words of one prompt have it in common.
        background: None where it is not asked.
        distractors: prompts, too.
    """
    limit = tokenizer.model_max_length
    texts = [*(("prompt", text) for text in prompts), *(("distractor", text) for text in distractors)]
    if background is not None:
        texts.insert(len(prompts), ("background prompt", background))
    asked: dict[tuple[int, ...], str] = {}
    for kind, text in dict.fromkeys(texts):
        shown = f"the {kind} {text!r}"
        whole = tokenizer(text, truncation=False, verbose=False).input_ids
        if kind != "prompt" and len(whole) > limit:
            length = f"has {len(whole)} tokens, the model reads {limit}"
            raise PromptError(f"{shown} {length}: its end is cut off; shorten it")
        if kind == "distractor" and not tokenizer(text, add_special_tokens=False).input_ids:
            raise PromptError(f"{shown} asks for nothing; name something that the images show, or no distractor")
        seen = tuple(tokenizer(text, truncation=True, max_length=limit).input_ids)
        if seen in asked:
            raise PromptError(
                f"{shown} is to the model the same as {asked[seen]}; ask for something else with one of them, or leave "
                "one out"
            )
        asked[seen] = shown


def one_hot(positions: list[int], length: int) -> Tensor:
    """The column selector of a concept: [length] float32, 1 at the concept's token positions."""
    column = torch.zeros(length)
    column[positions] = 1.0
    return column


@dataclass(frozen=True, kw_only=True)
class ConceptPrompt:
    """A prompt with the token positions of one or several of its concepts.

    Attributes:
        text: the prompt.
        concepts: the phrases, in the order of the rows of `selector`.
        selector: [concepts, tokens] float32, one `one_hot` row a concept.
    """

    text: str
    concepts: tuple[str, ...]
    selector: Tensor

    @classmethod
    def parse(
        cls, tokenizer: PreTrainedTokenizerBase, text: str, concepts: list[str] | tuple[str, ...]
    ) -> ConceptPrompt:
        """Locate every concept in the prompt; raises PromptError as `locate_concept` does."""
        length = tokenizer.model_max_length
        rows = [one_hot(locate_concept(tokenizer, text, concept), length) for concept in concepts]
        return cls(text=text, concepts=tuple(concepts), selector=torch.stack(rows))


def _known_words(tokenizer: PreTrainedTokenizerBase) -> str:
    words = sorted(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens))
    return f"; it knows: {', '.join(words)}" if len(words) <= SMALL_VOCABULARY else "; use other words"
