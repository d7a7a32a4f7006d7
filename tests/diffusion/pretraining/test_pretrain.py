"""Training a model from scratch: it learns, it resumes, it is saved as a model that loads."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.diffusion.model import ModelError, find_model, load_model
from engine.diffusion.pretraining.autoencoder import AutoencoderConfig
from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig, draw_timesteps
from engine.diffusion.pretraining.loop import LoopConfig
from engine.diffusion.pretraining.pretrain import PretrainConfig, pretrain
from engine.diffusion.pretraining.tokenizer import UNKNOWN, build_tokenizer
from engine.diffusion.training import Checkpoint
from engine.miniature.corpus import write_corpus

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    list(write_corpus(folder, count=12, seed=1, width=32, height=32))
    return PretrainConfig(
        input=str(folder),
        resolution=32,
        limit=None,
        mirror=True,
        letterbox=False,
        prompt_length=16,
        seed=1,
        vae=None,
        initial=None,
        half=False,
        autoencoder=AutoencoderConfig(channels=(8, 8), latent_channels=2, crop=16),
        autoencoder_loop=LoopConfig(steps=20, batch_size=8, checkpoint_every=5, warmup=2),
        diffusion=LatentDiffusionConfig(channels=(8, 16), attention=(False, True), text_width=16),
        diffusion_loop=LoopConfig(steps=6, batch_size=8, checkpoint_every=2, warmup=2),
    )


def weights(model) -> dict[str, torch.Tensor]:
    parts = ("vae", "unet", "text_encoder")
    return {f"{part}.{k}": v for part in parts for k, v in getattr(model, part).state_dict().items()}


def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(config, tmp_path, monkeypatch):
    whole = pretrain(config, tmp_path / "whole", device=CPU)

    saves = []
    real = Checkpoint.save

    def die_after_some_checkpoints(self, url, optimizer):
        real(self, url, optimizer)
        saves.append(url)
        if len(saves) in (2, 5):  # half way through the first training, a third into the second
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", die_after_some_checkpoints)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path / "cut", device=CPU)
    resumed = pretrain(config, tmp_path / "cut", device=CPU)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


def test_the_loss_falls_and_the_card_tells_it(config, tmp_path):
    longer = LoopConfig(steps=120, batch_size=8, learning_rate=3e-3, warmup=5, ema_decay=0.5)
    pretrain(replace(config, autoencoder_loop=longer), tmp_path, device=CPU)
    record = json.loads((tmp_path / "training.json").read_text())
    curve = record["losses"]["autoencoder"]
    assert curve[-1][0] == 120 and curve[-1][1] < 0.7 * curve[0][1]
    assert record["images"] == 12 and record["config"]["seed"] == 1
    assert (tmp_path / "samples.png").stat().st_size > 0
    card = (tmp_path / "README.md").read_text()
    assert "12 captioned images" in card and "| latent diffusion | 6 |" in card


def test_the_result_is_a_model_folder_with_latents_of_unit_variance(config, tmp_path):
    pretrain(config, tmp_path, device=CPU)
    model = load_model(find_model(str(tmp_path)))
    from engine.diffusion.pretraining.data import load_captioned_images, to_model_range

    images = load_captioned_images(config.input, resolution=32).images
    assert abs(float(model.encode(to_model_range(images)).std()) - 1) < 0.02


def test_convolutions_of_an_autoencoder_start_orthogonal():
    vae = AutoencoderConfig(channels=(8, 8), latent_channels=2).build(16)
    for weight in (vae.encoder.conv_in.weight, vae.decoder.conv_out.weight):
        lengths = torch.linalg.svdvals(weight.detach().flatten(1))
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-5)


def test_letterboxed_and_half_sized_views_are_encoded_and_learned_from(config, tmp_path, caplog):
    list(write_corpus(tmp_path / "wide", count=4, seed=1, width=64, height=32))
    composed = replace(config.diffusion, inset=1.0, balance=0.5)
    wide = replace(config, input=str(tmp_path / "wide"), letterbox=True, diffusion=composed)
    model = pretrain(wide, tmp_path / "model", device=CPU)
    found = {
        name: load_file(tmp_path / "model" / "training" / f"{name}.safetensors")["latents"].shape
        for name in ("latents", "latents-letterbox", "latents-small")
    }
    assert found["latents"] == found["latents-letterbox"] == (8, 2, 16, 16)  # mirrored, too
    assert found["latents-small"] == (8, 2, 8, 8)
    assert "and" in model.tokenizer.get_vocab()
    assert "the model reads 16 of them (--prompt-length)" in caplog.text


def test_a_training_goes_on_from_an_initial_model_and_keeps_its_words(config, tmp_path):
    initial = pretrain(config, tmp_path / "first", device=CPU)
    still = replace(config.diffusion_loop, steps=1, learning_rate=0.0)
    start = replace(config, initial=tmp_path / "first", vae=tmp_path / "first" / "vae", diffusion_loop=still)
    model = pretrain(start, tmp_path / "second", device=CPU)
    expected = weights(initial)
    assert all(torch.equal(value, expected[name]) for name, value in weights(model).items())
    assert (tmp_path / "second" / "README.md").read_text().count("trained on from the model") == 1
    assert str(tmp_path) not in (tmp_path / "second" / "vae" / "config.json").read_text()
    more_words = replace(start, diffusion=replace(config.diffusion, dropped_caption="aardvark"))
    other = pretrain(more_words, tmp_path / "words", device=CPU)  # the new word comes first, all others move
    old, new = (m.text_encoder.get_input_embeddings().weight for m in (initial, other))
    vocabulary = other.tokenizer.get_vocab()
    assert "aardvark" in vocabulary and len(new) == len(old) + 1
    for word, index in initial.tokenizer.get_vocab().items():
        assert torch.equal(new[vocabulary[word]], old[index])
    wider = replace(start, diffusion=replace(config.diffusion, channels=(16, 16)))
    with pytest.raises(ValueError, match="another shape"):
        pretrain(wider, tmp_path / "third", device=CPU)


def test_a_model_stored_in_half_the_size_comes_back_as_it_was_to_half_precision(config, tmp_path):
    model = pretrain(replace(config, half=True), tmp_path, device=CPU)
    loaded = load_model(find_model(str(tmp_path))).unet.state_dict()
    for name, value in model.unet.state_dict().items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], value, rtol=1e-3, atol=1e-6)
        assert torch.equal(loaded[name], value.half().float())


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_logit_normal_timesteps_have_their_median_where_asked_for_and_stay_in_range(shift):
    drawn = draw_timesteps("logit_normal", 20_000, 1000, torch.Generator().manual_seed(0), shift)
    assert drawn.min() >= 0 and drawn.max() <= 999
    for quantile in (0.1, 0.5, 0.9):
        expected = 1000 * torch.special.expit(torch.distributions.Normal(shift, 1).icdf(torch.tensor(quantile)))
        assert abs(float(drawn.float().quantile(quantile)) - float(expected)) < 15
    uniform = draw_timesteps("uniform", 20_000, 1000, torch.Generator().manual_seed(0))
    assert abs(float(uniform.float().quantile(0.1)) - 100) < 15


def test_a_folder_with_another_training_is_refused(config, tmp_path):
    pretrain(config, tmp_path, device=CPU)
    with pytest.raises(ValueError, match="seed: 1 -> 2"):
        pretrain(replace(config, seed=2), tmp_path, device=CPU)


def test_what_cannot_be_built_is_found_out_before_anything_is_trained_and_locks_nothing(config, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(f"{pretrain.__module__}.train_autoencoder", lambda *a, **k: trained.append(1))
    odd = replace(config, diffusion=replace(config.diffusion, channels=(12, 20)))
    with pytest.raises(ValueError, match="num_channels"):
        pretrain(odd, tmp_path / "out", device=CPU)
    with pytest.raises(ModelError):
        pretrain(replace(config, initial=tmp_path / "nothing"), tmp_path / "out", device=CPU)
    assert not trained and not (tmp_path / "out").exists()
    monkeypatch.undo()
    pretrain(config, tmp_path / "out", device=CPU)
    other = replace(config, initial=tmp_path / "out", diffusion=replace(config.diffusion, text_width=32))
    with pytest.raises(ValueError, match="the initial model has another shape"):
        pretrain(other, tmp_path / "other", device=CPU)


def test_latents_of_other_images_are_not_taken_for_those_of_these(config, tmp_path, caplog):
    pretrain(config, tmp_path / "out", device=CPU)
    kept = tmp_path / "out" / "training" / "latents.safetensors"
    own = kept.read_bytes()
    few = pretrain(replace(config, limit=4), tmp_path / "few", device=CPU)
    assert few is not None
    kept.write_bytes((tmp_path / "few" / "training" / "latents.safetensors").read_bytes())
    pretrain(config, tmp_path / "out", device=CPU)
    assert "is of other images or another autoencoder" in caplog.text
    assert load_file(kept)["latents"].shape[0] == 2 * 12 and kept.read_bytes() == own


def test_a_corpus_without_captions_is_refused(config, tmp_path):
    from tests.corpus.hostile import encode

    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode(np.zeros((32, 32, 3), np.uint8)))
    with pytest.raises(ValueError, match="no captioned image"):
        pretrain(replace(config, input=str(folder)), tmp_path / "out", device=CPU)


def test_every_word_of_the_captions_is_one_token_and_others_are_unknown():
    tokenizer = build_tokenizer(["a photo of a fire truck"] * 2, length=12)
    ids = tokenizer("a photo of a Fire zebra", padding="max_length").input_ids
    assert len(ids) == 12
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words[:8] == ["<|startoftext|>", "a", "photo", "of", "a", "fire", UNKNOWN, "<|endoftext|>"]
    assert set(words[8:]) == {"<|endoftext|>"}


def test_words_are_known_beside_punctuation_and_in_capitals():
    captions = ["A brown dog, sitting.", "A man riding a horse."] * 2
    tokenizer = build_tokenizer(captions, length=12, always=["a photo of a T-shirt"])
    for text in (*captions, "horse", "dog sitting", "t-shirt"):
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text


@pytest.mark.parametrize(
    ("resolution", "crop", "said"), [(36, 16, "resolution is 36"), (32, 18, "crop is 18"), (36, 48, "resolution is 36")]
)
def test_sides_that_the_autoencoder_cannot_halve_are_refused(config, tmp_path, resolution, crop, said):
    autoencoder = AutoencoderConfig(channels=(8, 8, 8, 8), latent_channels=2, crop=crop)
    with pytest.raises(ValueError, match=f"{said}; this autoencoder takes multiples of 8"):
        pretrain(replace(config, resolution=resolution, autoencoder=autoencoder), tmp_path / "out", device=CPU)
    assert not (tmp_path / "out").exists()


def test_a_training_that_an_earlier_version_began_is_refused_by_name(config, tmp_path):
    pretrain(config, tmp_path, device=CPU)
    kept = tmp_path / "training" / "config.json"
    values = json.loads(kept.read_text())
    kept.write_text(json.dumps({**values, "version": values["version"] - 1}))
    with pytest.raises(ValueError, match=r"other settings \(version: \d+ -> \d+\)"):
        pretrain(config, tmp_path, device=CPU)
