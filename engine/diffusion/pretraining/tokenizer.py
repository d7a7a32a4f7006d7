"""A word-level tokenizer made from captions: one token a word, the padding of CLIP, and a real unknown token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"


def build_tokenizer(
    captions: Iterable[str], *, length: int, minimum_count: int = 2, always: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer that knows every word of the captions seen at least `minimum_count` times.

    Case does not matter, and punctuation is words of its own.

    Args:
        length: number of tokens of a padded prompt; the padding is the end-of-text token, as in CLIP.
        always: texts whose words are known however rare they are.
    """
    normalizer, splitter = normalizers.Lowercase(), pre_tokenizers.Whitespace()

    def words_of(text: str) -> list[str]:
        return [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]

    counts = Counter(word for caption in captions for word in words_of(caption))
    often = {word for word, count in counts.items() if count >= minimum_count}
    words = sorted(often | {word for text in always for word in words_of(text)})
    vocabulary = {token: index for index, token in enumerate([START, END, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        pad_token=END,
        model_max_length=length,
    )
