"""Noise belongs to its sample."""

from __future__ import annotations

import torch

from engine.diffusion.noise import add_noise, draw_noise


def test_noise_depends_on_seed_key_and_stage_alone():
    first = draw_noise(1, "a", "s", (3, 4))
    assert torch.equal(first, draw_noise(1, "a", "s", (3, 4)))
    for other in (
        draw_noise(2, "a", "s", (3, 4)),
        draw_noise(1, "b", "s", (3, 4)),
        draw_noise(1, "a", "t", (3, 4)),
    ):
        assert not torch.equal(first, other)


def test_fewer_steps_take_the_same_first_draws():
    assert torch.equal(draw_noise(0, "k", "s", (40, 4, 8, 8))[:10], draw_noise(0, "k", "s", (10, 4, 8, 8)))


def test_noise_is_standard_normal():
    noise = draw_noise(0, "k", "s", (200_000,))
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01


def test_the_forward_process_mixes_by_alpha_bar():
    z0, noise = torch.full((2, 1, 1, 1), 3.0), torch.full((2, 1, 1, 1), 5.0)
    zt = add_noise(z0, noise, torch.tensor([1.0, 0.36])).flatten()
    torch.testing.assert_close(zt, torch.tensor([3.0, 0.6 * 3 + 0.8 * 5]))


def test_where_seed_key_and_stage_end_matters():
    one = draw_noise(1, "1a", "s", (4,))
    assert not torch.equal(one, draw_noise(11, "a", "s", (4,))) and not torch.equal(one, draw_noise(1, "1", "as", (4,)))
