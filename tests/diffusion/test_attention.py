"""The one-hot value channel against a naive implementation that keeps every softmax map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engine.diffusion.attention import AttentionCapture, MapPropagation
from engine.diffusion.prompt import one_hot
from tests.diffusion.models import make_unet

TOKENS = 20


def run(unet, batch: int = 2, tokens: int = TOKENS, size: int | None = None) -> tuple[Tensor, Tensor]:
    size = size or unet.config.sample_size
    g = torch.Generator().manual_seed(3)
    zt = torch.randn(batch, 4, size, size, generator=g)
    context = torch.randn(1, tokens, unet.config.cross_attention_dim, generator=g).expand(batch, -1, -1)
    with torch.no_grad():
        return unet(zt, torch.tensor([1, 501])[:batch], context).sample, context


def naive_attention(unet, kind: str) -> dict[str, Tensor]:
    """Full softmax attention by forward hooks on the projections, in float64: layer -> [B, N, K], mean over heads."""
    queries: dict[str, Tensor] = {}
    keys: dict[str, Tensor] = {}
    hooks = []
    layers = {name: module for name, module in unet.named_modules() if name.endswith(kind)}
    for name, attn in layers.items():
        hooks.append(attn.to_q.register_forward_hook(lambda _m, _i, out, name=name: queries.__setitem__(name, out)))
        hooks.append(attn.to_k.register_forward_hook(lambda _m, _i, out, name=name: keys.__setitem__(name, out)))
    run(unet)
    for hook in hooks:
        hook.remove()
    maps = {}
    for name, attn in layers.items():
        q, k = (
            x.double().reshape(len(x), x.shape[1], attn.heads, -1).permute(0, 2, 1, 3)
            for x in (queries[name], keys[name])
        )
        probabilities = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        maps[name] = probabilities.mean(1)
    return maps


def naive_maps(unet, positions: list[int]) -> dict[str, Tensor]:
    """Attention to tokens: layer -> [B, N]."""
    return {name: full[..., positions].sum(-1) for name, full in naive_attention(unet, "attn2").items()}


@pytest.mark.parametrize("kind", ["miniature", "sd1", "sd2"])
def test_every_layer_equals_the_full_softmax(kind):
    unet = make_unet(kind)
    expected = naive_maps(unet, [5, 6])
    with AttentionCapture(unet, one_hot([5, 6], TOKENS)[None], per_layer=True) as capture:
        run(unet)
    assert set(capture.layers) == set(expected)
    assert len(expected) == {"miniature": 6, "sd1": 16, "sd2": 16}[kind]
    for name, naive in expected.items():
        error = (capture.layers[name][..., 0].double() - naive).abs() / naive
        assert error.max() <= 1e-5, name


@pytest.mark.parametrize("kind", ["miniature", "sd1"])
def test_reading_is_the_mean_of_all_layers_brought_to_latent_size(kind):
    unet = make_unet(kind)
    expected = naive_maps(unet, [4])
    size = unet.config.sample_size
    resized = [
        F.interpolate(m.reshape(len(m), 1, side := int(m.shape[1] ** 0.5), side), (size, size), mode="bilinear")
        for m in expected.values()
    ]
    with AttentionCapture(unet, one_hot([4], TOKENS)[None]) as capture:
        run(unet)
        heatmap = capture.read(size, size)
    torch.testing.assert_close(heatmap.double(), torch.stack(resized).mean(0), rtol=1e-5, atol=1e-8)


def test_several_concepts_are_read_in_one_pass():
    unet = make_unet("miniature")
    selectors = torch.stack([one_hot([i], TOKENS) for i in range(1, 12)])
    with AttentionCapture(unet, selectors) as capture:
        run(unet)
        together = capture.read(32, 32)
    for row in (0, 10):
        with AttentionCapture(unet, selectors[row : row + 1]) as capture:
            run(unet)
            torch.testing.assert_close(together[:, row : row + 1], capture.read(32, 32), rtol=1e-5, atol=1e-8)


def test_attention_over_all_tokens_sums_to_one():
    unet = make_unet("sd1")
    with AttentionCapture(unet, torch.ones(1, TOKENS)) as capture:
        run(unet)
        torch.testing.assert_close(capture.read(16, 16), torch.ones(2, 1, 16, 16))


@pytest.mark.parametrize("kind", ["miniature", "sd1", "sd2"])
def test_the_unet_gives_the_same_output_while_captured(kind):
    unet = make_unet(kind)
    plain, _ = run(unet)
    with AttentionCapture(unet, one_hot([5], TOKENS)[None]):
        captured, _ = run(unet)
    torch.testing.assert_close(captured, plain, rtol=1e-5, atol=1e-5)


def test_a_latent_that_is_not_square_is_read_in_its_own_shape():
    unet = make_unet("sd1")
    with AttentionCapture(unet, one_hot([5], TOKENS)[None]) as capture, torch.no_grad():
        unet(torch.randn(1, 4, 16, 24), torch.tensor([1]), torch.randn(1, TOKENS, 32))
        assert capture.read(16, 24).shape == (1, 1, 16, 24)


def test_processors_are_restored_also_after_an_exception():
    unet = make_unet("sd1")
    before = unet.attn_processors
    with AttentionCapture(unet, one_hot([5], TOKENS)[None]):
        assert unet.attn_processors != before
    assert unet.attn_processors == before
    with pytest.raises(RuntimeError, match="on purpose"), AttentionCapture(unet, one_hot([5], TOKENS)[None]):
        raise RuntimeError("on purpose")
    assert unet.attn_processors == before


def test_what_is_kept_does_not_grow_with_the_number_of_text_tokens():
    unet = make_unet("sd1")
    kept = []
    for tokens in (20, 80):
        with AttentionCapture(unet, one_hot([5], tokens)[None], per_layer=True) as capture:
            run(unet, tokens=tokens)
        kept.append(sum(t.untyped_storage().nbytes() for t in (*capture.layers.values(), *capture._sums.values())))
    assert kept[0] == kept[1]


@pytest.mark.parametrize("kind", ["miniature", "sd1", "sd2"])
def test_a_propagated_map_is_its_product_with_the_full_self_attention(kind):
    unet = make_unet(kind)
    size = unet.config.sample_size
    maps = torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(1))
    total, weights = torch.zeros(2, 1, size, size, dtype=torch.float64), 0
    for full in naive_attention(unet, "attn1").values():
        cells = full.shape[1]
        side = int(cells**0.5)
        coarse = maps.double().reshape(2, side, size // side, side, size // side).mean((2, 4)).flatten(1)
        spread = (full @ coarse[:, :, None]).reshape(2, 1, side, side)
        total += cells * F.interpolate(spread, (size, size), mode="bilinear")
        weights += cells
    with MapPropagation(unet, 1) as probe:
        probe.maps = maps
        run(unet)
        got = probe.read(size, size)
    torch.testing.assert_close(got.double(), total / weights, rtol=1e-5, atol=1e-6)
    assert (got - maps).abs().max() > 0.1


def test_the_unet_gives_the_same_output_while_a_map_is_propagated_and_has_its_processors_back():
    unet = make_unet("sd2")
    before, (plain, _) = unet.attn_processors, run(unet)
    with MapPropagation(unet, 3) as probe:
        probe.maps = torch.rand(2, 3, unet.config.sample_size, unet.config.sample_size)
        probed, _ = run(unet)
    torch.testing.assert_close(probed, plain, rtol=1e-5, atol=1e-5)
    assert unet.attn_processors == before
