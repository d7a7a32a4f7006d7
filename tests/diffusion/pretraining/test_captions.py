"""Images are drawn with the weights asked for, and an image pasted into another brings its caption along."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from engine.diffusion.pretraining.captions import caption_weights, draw_images, paste_insets
from engine.diffusion.pretraining.data import halve, load_captioned_images
from engine.diffusion.pretraining.latent_diffusion import LatentDiffusionConfig, train_latent_diffusion
from engine.diffusion.pretraining.loop import LoopConfig
from engine.diffusion.pretraining.tokenizer import build_tokenizer
from tests.corpus.hostile import encode, make_tar

CPU = torch.device("cpu")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("balance", "rare"), [(0.0, 0.1), (0.5, 0.25), (1.0, 0.5)])
def test_a_rare_caption_is_drawn_as_often_as_its_weight_says(balance, rare):
    captions = ["dog"] * 90 + ["cat"] * 10  # shares ∝ n^(1 - balance): 90 : 10, 9.49 : 3.16, 1 : 1
    drawn = draw_images(20_000, 100, caption_weights(captions, balance), generator())
    share = Counter(captions[i] for i in drawn.tolist())["cat"] / 20_000
    assert share == pytest.approx(rare, abs=0.015)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"balance": 1.5}, r"balance is 1\.5; it must be between 0 and 1"),
        ({"inset": -0.1}, r"inset is -0\.1; it must be between 0 and 1"),
        (
            {"timestep_sampling": "uniform", "timestep_shift": 1.0},
            r"timestep_shift is 1\.0; uniform ones",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_trained(wrong, said):
    with pytest.raises(ValueError, match=said):
        LatentDiffusionConfig(**wrong)


def test_insets_lie_whole_and_unchanged_at_places_that_vary_and_only_where_chosen():
    chosen = torch.arange(64) % 2 == 0
    insets = torch.rand(64, 3, 4, 6, generator=generator()) + 1
    pasted = paste_insets(torch.zeros(64, 3, 8, 12), insets, chosen, generator())
    assert not pasted[~chosen].any()
    corners = set()
    for i in chosen.nonzero().flatten().tolist():
        rows, columns = pasted[i].any(0).any(1).nonzero().flatten(), pasted[i].any(0).any(0).nonzero().flatten()
        top, left = int(rows[0]), int(columns[0])
        assert torch.equal(pasted[i, :, top : top + 4, left : left + 6], insets[i])
        assert int((pasted[i] != 0).sum()) == insets[i].numel()
        corners.add((top, left))
    assert len(corners) > 16 and {c[0] for c in corners} == set(range(5))


def test_halving_is_the_mean_of_two_by_two_pixels():
    image = torch.tensor([[0, 4, 10, 10], [4, 8, 10, 30]], dtype=torch.uint8).expand(1, 3, 2, 4)
    assert halve(image).tolist() == [[[[4, 15]]] * 3]


def test_a_letterboxed_image_is_seen_whole_where_labelling_would_put_it(tmp_path):
    left, right = np.full((8, 16, 3), 250, np.uint8), np.full((8, 16, 3), 10, np.uint8)
    members = [("a.png", encode(np.concatenate([left, right], 1))), ("a.txt", b"a photo of a wall")]
    (tmp_path / "000000.tar").write_bytes(make_tar(members))
    (crop,), (whole,) = (
        load_captioned_images(str(tmp_path), resolution=32, framing=framing).images for framing in ("crop", "letterbox")
    )
    assert crop.shape == whole.shape == (3, 32, 32)
    assert (crop[:, :, :12] > 200).all() and (crop[:, :, 20:] < 60).all()
    assert (whole[:, :8, :16] == 250).all() and (whole[:, :8, 16:] == 10).all()
    assert torch.isin(whole[:, 8:], torch.tensor([127, 128], dtype=torch.uint8)).all()


def test_a_step_sees_both_captions_of_a_composed_image_and_the_small_latents(monkeypatch, tmp_path):
    import engine.diffusion.pretraining.latent_diffusion as module

    seen: list[str] = []
    tokenizer = build_tokenizer(["big", "little"], length=8, minimum_count=1, always=["none", "and"])
    real = type(tokenizer).__call__

    def spy(self, texts, **options):
        seen.extend(texts)
        return real(self, texts, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", spy)
    noised: list[torch.Tensor] = []
    scheduler = module.make_scheduler("epsilon")
    monkeypatch.setattr(module, "make_scheduler", lambda kind: scheduler)
    add_noise = scheduler.add_noise
    monkeypatch.setattr(scheduler, "add_noise", lambda z0, *rest: noised.append(z0) or add_noise(z0, *rest))
    config = LatentDiffusionConfig(
        channels=(8, 16),
        attention=(False, True),
        text_width=16,
        inset=0.5,
        caption_dropout=0.25,
        dropped_caption="none",
    )
    latents = torch.stack([torch.full((4, 8, 8), 1.0), torch.full((4, 8, 8), 2.0)])
    small = torch.stack([torch.full((4, 4, 4), 10.0), torch.full((4, 4, 4), 20.0)])
    train_latent_diffusion(
        latents,
        ["big", "little"],
        None,
        tokenizer,
        config,
        LoopConfig(steps=8, batch_size=16, warmup=1),
        small_latents=small,
        seed=1,
        folder=tmp_path,
        device=CPU,
    )
    value = {"big": 1, "little": 2}
    composed = 0
    assert len(seen) == 128
    for text, z0 in zip(seen, torch.cat(noised), strict=True):
        words = text.split(" and ")
        composed += len(words) == 2
        inside = z0[z0 >= 10]
        assert inside.numel() == (64 if len(words) == 2 else 0)
        assert words[0] in ("none", *value) and (words[0] == "none" or float(z0.min()) == value[words[0]])
        if len(words) == 2 and words[1] != "none":
            assert float(inside[0]) == 10 * value[words[1]]
    assert 40 < composed < 88
    assert 12 < sum("none" in text.split(" and ") for text in seen) < 84
