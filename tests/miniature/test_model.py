"""The bundled model does what the whole project rests on: its attention finds the concept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.corpus import list_shards
from engine.diffusion.model import COMPONENTS, load_model
from engine.diffusion.prompt import locate_concept
from engine.miniature import corpus_url, model_path
from engine.miniature.things import CONCEPTS
from tests.benchmarks.miniature import measure


@pytest.mark.slow
@pytest.mark.parametrize("concept", list(CONCEPTS))
def test_attention_to_the_concepts_own_token_finds_it_best(concept):
    """A few scenes only, against regressions: the floors are below what the present model reaches."""
    figures = measure(load_model(model_path()), concept, count=8, seed=5)
    assert figures["auroc_mean"] >= 0.93
    assert figures["preliminary"]["posterior"]["iou"] >= 0.25
    by_token = figures["auroc_mean_by_token"]
    assert max(by_token, key=lambda token: by_token[token]).split()[1] == concept


def test_the_committed_figures_reach_the_goals():
    figures = json.loads((Path(__file__).parents[2] / "docs" / "results" / "miniature.json").read_text())
    assert figures["mean"]["auroc_mean"] >= 0.97 and figures["mean"]["preliminary_iou_posterior"] >= 0.40
    assert all(concept["auroc_mean"] >= 0.94 for concept in figures["concepts"].values())


def test_model_and_corpus_are_small_enough_to_bundle():
    weights = [path for part in COMPONENTS for path in (model_path() / part).glob("*.safetensors")]
    assert sum(path.stat().st_size for path in weights) <= 25e6


def test_it_knows_the_words_of_its_world_and_no_others():
    tokenizer = load_model(model_path()).tokenizer
    for phrase in (*CONCEPTS, "hat", "roof box", "arms", "legs"):
        assert locate_concept(tokenizer, f"a photo of a {phrase}", phrase)
    with pytest.raises(ValueError, match="does not know 'zebra'"):
        locate_concept(tokenizer, "a photo of a zebra", "zebra")


def test_the_whole_bundled_corpus_is_one_corpus():
    shards = list_shards(corpus_url("hat"))
    assert len(shards) == 16 and len({shard.name for shard in shards}) == 16
    assert [shard.name for shard in list_shards(corpus_url("car"))] == [f"car-{n:06d}.tar" for n in range(4)]
