"""The masked loss against a plain Python loop."""

from __future__ import annotations

import pytest
import torch

from engine.distillation.objective import masked_loss


def draw(seed: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, target and region."""
    g = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, batch, 4, 6, 5, generator=g)
    return prediction, target, torch.rand(batch, 6, 5, generator=g) < 0.4


def reference(prediction: torch.Tensor, target: torch.Tensor, region: torch.Tensor) -> float:
    losses = []
    for own, wanted, cells in zip(prediction.tolist(), target.tolist(), region.tolist(), strict=True):
        errors = [
            (own[c][y][x] - wanted[c][y][x]) ** 2
            for c in range(len(own))
            for y in range(len(cells))
            for x in range(len(cells[0]))
            if cells[y][x]
        ]
        losses.append(sum(errors) / len(errors) if errors else 0.0)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_a_plain_loop(seed):
    prediction, target, region = draw(seed)
    assert float(masked_loss(prediction, target, region)) == pytest.approx(reference(prediction, target, region))


def test_a_region_of_everything_is_the_mean_squared_error():
    prediction, target, region = draw(0)
    loss = masked_loss(prediction, target, torch.ones_like(region))
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(prediction, target))


def test_what_lies_outside_the_region_changes_neither_loss_nor_gradient():
    prediction, target, region = draw(1)
    elsewhere = torch.where(region[:, None], prediction, 1e3)
    gradients = []
    for guess in (prediction, elsewhere):
        guess = guess.clone().requires_grad_(True)
        loss = masked_loss(guess, target, region)
        loss.backward()
        assert float(loss.detach()) == float(masked_loss(prediction, target, region))
        outside = ~region[:, None].expand_as(guess)
        assert (guess.grad[outside] == 0).all() and (guess.grad[~outside] != 0).all()
        gradients.append(guess.grad)
    assert torch.equal(*gradients)


def test_a_small_region_weighs_as_much_as_a_large_one():
    target = torch.zeros(2, 4, 8, 8)
    region = torch.ones(2, 8, 8, dtype=torch.bool)
    region[0, 1:] = False
    region[0, 0, 1:] = False  # one cell against 64
    for errs in ([3.0, 0.0], [0.0, 3.0]):
        prediction = torch.tensor(errs)[:, None, None, None].expand_as(target)
        assert float(masked_loss(prediction, target, region)) == pytest.approx(9 / 2)


def test_an_empty_region_weighs_nothing_and_is_no_nan():
    prediction, target, region = draw(2)
    region[1] = False
    guess = prediction.clone().requires_grad_(True)
    loss = masked_loss(guess, target, region)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(reference(prediction, target, region))
    assert (guess.grad[1] == 0).all() and guess.grad.isfinite().all()
    nothing = masked_loss(prediction, target, torch.zeros_like(region))
    assert float(nothing) == 0


def test_examples_share_a_batch_without_touching_each_other():
    prediction, target, region = draw(3, batch=4)
    alone = [masked_loss(prediction[k, None], target[k, None], region[k, None]) for k in range(4)]
    torch.testing.assert_close(masked_loss(prediction, target, region), torch.stack(alone).mean())
