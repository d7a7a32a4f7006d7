"""The fine-tuning loop: what a batch is made of, and that neither an interruption nor the parts of a batch matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.diffusion.model import LatentDiffusion
from engine.distillation.distil import _FineTuning, distil, draw_batch
from engine.distillation.examples import Examples
from engine.distillation.spec import DistillationSpec
from tests.diffusion.models import make_model

PROMPTS = ("a photo of a car", "a photo of a background")
SIZES = [(16, 16), (16, 9), (11, 16)]
METHODS = ["lora", "full"]


def make_examples() -> Examples:
    """Three images of two variants; the first latent cell says which is which."""
    g = torch.Generator().manual_seed(0)
    latents = torch.randn(3, 2, 4, 16, 16, generator=g)
    latents[:, :, 0, 0, 0] = torch.arange(6.0).view(3, 2)
    masks = torch.zeros(3, 2, 16, 16, dtype=torch.bool)
    for image, (rows, columns) in enumerate(SIZES):
        masks[image, 0, 2 : rows - 7, : columns // 3] = True
        masks[image, 1, 2 : rows - 7, columns - columns // 3 : columns] = True
    return Examples(latents=latents, masks=masks, sizes=torch.tensor(SIZES))


def draw(step: int = 0, *, seed: int = 3, **changes):
    spec = DistillationSpec(**{"batch_size": 64, **changes})
    return draw_batch(make_examples(), spec, timesteps=1000, seed=seed, step=step)


def variants(batch) -> list[tuple[int, int]]:
    return [divmod(int(value), 2) for value in batch.z0[:, 0, 0, 0]]


@pytest.mark.parametrize("other", [(6, 3), (5, 4)], ids=["step", "seed"])
def test_a_batch_is_a_function_of_seed_and_step(other):
    batches = [draw(step, seed=seed) for step, seed in ((5, 3), (5, 3), other)]
    for name in ("z0", "noise", "t", "synthesis", "region"):
        first, again, changed = (getattr(batch, name) for batch in batches)
        assert torch.equal(first, again), name
        assert not torch.equal(first, changed), name


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_share_of_synthesis_is_p(p):
    drawn = torch.cat([draw(step, synthesis=p).synthesis for step in range(12)]).float()
    assert abs(float(drawn.mean()) - p) <= 4 * np.sqrt(p * (1 - p) / len(drawn))


def test_a_batch_holds_whole_examples_of_all_images_variants_and_timesteps():
    batches = [draw(step) for step in range(20)]
    examples = make_examples()
    for batch in batches:
        for z0, (image, variant) in zip(batch.z0, variants(batch), strict=True):
            assert torch.equal(z0, examples.latents[image, variant])
    assert len({v for batch in batches for v in variants(batch)}) == 6
    t = torch.cat([batch.t for batch in batches])
    assert t.min() >= 0 and t.max() <= 999 and t.min() < 20 and t.max() > 980
    noise = torch.stack([batch.noise for batch in batches])
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01


def test_the_loss_of_synthesis_covers_the_image_and_that_of_inpainting_a_part_of_its_background():
    examples, whole, smaller = make_examples(), 0, 0
    for step in range(10):
        batch = draw(step)
        for region, synthesis, (image, variant) in zip(batch.region, batch.synthesis, variants(batch), strict=True):
            rows, columns = SIZES[image]
            assert not region[rows:].any() and not region[:, columns:].any()  # never the letterbox
            if synthesis:
                assert region[:rows, :columns].all()
                whole += 1
            else:
                assert region.any() and not (region & examples.masks[image, variant]).any()
                smaller += int(region.sum()) <= rows * columns / 4
    assert whole > 200 and smaller > 200


def make_spec(**changes) -> DistillationSpec:
    values = {"steps": 3, "batch_size": 3, "rank": 2, "warmup": 1, "ema_decay": 0.5, "learning_rate": 1e-3}
    return DistillationSpec(**{**values, **changes})


def weights_of(model: LatentDiffusion) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.unet.state_dict().items()}


def run(spec: DistillationSpec, checkpoint, *, kind: str = "sd1", **options):
    concept, losses = distil(
        make_model(kind), make_examples(), PROMPTS, spec, seed=7, checkpoint=str(checkpoint), **options
    )
    return weights_of(concept.distilled()), losses


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(Weights, losses, checkpoint) by method."""
    paths = {method: tmp_path_factory.mktemp(method) / "state" for method in METHODS}
    return {method: (*run(make_spec(method=method), path), path) for method, path in paths.items()}


class Interruption(Exception):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_ends_where_an_undisturbed_one_does(undisturbed, method, tmp_path):
    def stop(progress):
        if progress.step == 2:  # a step after the checkpoint, which is then done again
            raise Interruption

    spec, first, second = make_spec(method=method), [], []
    with pytest.raises(Interruption):
        run(spec, tmp_path / "state", checkpoint_every=1, on_progress=stop, on_checkpoint=lambda s, *_: first.append(s))
    torch.manual_seed(99)
    weights, losses = run(spec, tmp_path / "state", on_progress=lambda progress: second.append(progress.step))
    assert first == [1] and second == [2, 3]
    expected, expected_losses, _ = undisturbed[method]
    assert losses == expected_losses and len(losses) == 3
    assert weights.keys() == expected.keys()
    for name, value in weights.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_the_parts_of_a_batch_change_nothing_beyond_rounding(undisturbed, method, tmp_path):
    """Adam turns the rounding of a gradient near zero into a step of any size: compare the bulk of the weights."""
    weights, losses = run(make_spec(method=method), tmp_path / "state", micro_batch=2)
    expected, expected_losses, _ = undisturbed[method]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    apart = torch.cat([(weights[name] - value).abs().flatten() for name, value in expected.items()])
    assert float((apart > 1e-4).float().mean()) < 0.01


def test_a_finished_run_is_read_not_repeated(undisturbed):
    expected, expected_losses, checkpoint = undisturbed["lora"]
    steps = []
    weights, losses = run(make_spec(), checkpoint, on_progress=steps.append)
    assert not steps and losses == expected_losses
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


@pytest.mark.parametrize("method", METHODS)
def test_m_is_left_as_it_was(method, tmp_path):
    model = make_model("sd1")
    before, g = weights_of(model), torch.Generator().manual_seed(1)
    zt, context = torch.randn(1, 4, 16, 16, generator=g), torch.randn(1, 20, 32, generator=g)
    with torch.no_grad():
        expected = model.unet(zt, 300, context).sample
        spec = make_spec(method=method, steps=2, learning_rate=0.01, warmup=0, batch_size=1)
        with torch.enable_grad():
            concept, _ = distil(model, make_examples(), PROMPTS, spec, seed=7, checkpoint=str(tmp_path / "state"))
        assert not torch.allclose(concept.distilled().unet(zt, 300, context).sample, expected, rtol=1e-2)
        assert torch.equal(concept.original().unet(zt, 300, context).sample, expected)
    if method == "full":
        assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())


@pytest.mark.parametrize(("method", "rate", "steps", "warmup"), [("lora", 1e-2, 16, 2), ("full", 5e-3, 25, 5)])
def test_the_loss_falls(method, rate, steps, warmup, tmp_path):
    spec = make_spec(method=method, steps=steps, batch_size=4, learning_rate=rate, warmup=warmup)
    _, losses = run(spec, tmp_path / "state")
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:2])


def test_a_model_of_velocities_learns_velocities(tmp_path, monkeypatch):
    """The first loss, before any step, against the velocity by its formula."""
    model, spec = make_model("sd2"), make_spec(method="full", steps=1)
    batch = draw_batch(make_examples(), spec, timesteps=1000, seed=7, step=0)
    level = model.scheduler.alphas_cumprod[batch.t][:, None, None, None]
    zt = level.sqrt() * batch.z0 + (1 - level).sqrt() * batch.noise
    velocity = level.sqrt() * batch.noise - (1 - level).sqrt() * batch.z0
    context = torch.cat([model.encode_text([PROMPTS[0 if own else 1]]) for own in batch.synthesis])
    with torch.no_grad():
        error = (model.unet(zt, batch.t, context).sample - velocity).square()
    expected = torch.stack([e[:, r].mean() for e, r in zip(error, batch.region, strict=True)]).mean()
    _, losses = run(spec, tmp_path / "state", kind="sd2")
    assert losses == [pytest.approx(float(expected), rel=1e-4)]


def test_the_first_step_goes_as_far_as_warmup_lets_it_and_the_average_follows(tmp_path):
    """Adam's first step is the learning rate, whatever the gradient; the first average is 0.9 of the way."""
    before = weights_of(make_model("sd1"))
    weights, _ = run(make_spec(method="full", steps=1, warmup=10), tmp_path / "state")
    moved = max(float((weights[name] - value).abs().max()) for name, value in before.items())
    assert moved == pytest.approx(0.9 * 1e-3 / 10, rel=0.05)


def test_gradients_are_clipped(tmp_path, monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *arguments, **options):
        own = [p.grad.flatten() for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.cat(own).norm()))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    monkeypatch.setattr("engine.distillation.distil.CLIP", 1e-4)
    run(make_spec(method="full", steps=1), tmp_path / "state")
    assert norms == [pytest.approx(1e-4, rel=0.05)]


def test_what_is_told_at_a_checkpoint_is_told_before_it_is_written(tmp_path):
    def stop(*arguments):
        raise Interruption

    with pytest.raises(Interruption):
        run(make_spec(steps=1), tmp_path / "state", on_checkpoint=stop)
    told = []
    run(make_spec(steps=1), tmp_path / "state", on_checkpoint=lambda step, *rest: told.append(step))
    assert told == [1], "killed in between, it is told again"


def test_a_loss_that_is_no_number_ends_the_training_and_is_not_kept(tmp_path):
    examples = make_examples()
    examples.latents.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0; lower the learning rate"):
        distil(make_model("sd1"), examples, PROMPTS, make_spec(steps=1), seed=7, checkpoint=str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()


def test_a_batch_that_does_not_fit_the_memory_is_learned_in_parts(tmp_path, monkeypatch, caplog):
    expected, expected_losses = run(make_spec(steps=2, batch_size=6), tmp_path / "whole")
    whole, sizes = _FineTuning._backward, []

    def small(self, batch, part):
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, batch, part)

    monkeypatch.setattr(_FineTuning, "_backward", small)
    found, losses = run(make_spec(steps=2, batch_size=6), tmp_path / "parts")
    assert sizes == [6, 3, 2, 2, 2, 2, 2, 2]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    apart = torch.cat([(found[name] - value).abs().flatten() for name, value in expected.items()])
    assert float((apart > 1e-4).float().mean()) < 0.01
    assert "from now on 2 examples at a time" in caplog.text
    monkeypatch.setattr(_FineTuning, "_backward", lambda self, batch, part: small(self, batch, range(9)))
    with pytest.raises(torch.OutOfMemoryError):
        run(make_spec(steps=1, batch_size=2), tmp_path / "never")
