"""The mean attention map against a plain loop over timesteps and images."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.diffusion.attention import AttentionCapture, MapPropagation
from engine.diffusion.noise import draw_noise
from engine.diffusion.prompt import ConceptPrompt
from engine.labelling.attend import attend
from engine.labelling.spec import LabelSpec
from tests.diffusion.models import make_model

KEYS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def model():
    return make_model("sd1")


def spec(**changes) -> LabelSpec:
    values = {
        "concept": "car",
        "prompt": "a photo of a car",
        "timesteps": 10,
        "attention_steps": 4,
        "seed": 5,
        "propagation_steps": 0,
        "presence_steps": 0,
    }
    return LabelSpec(**{**values, **changes})


def latents() -> torch.Tensor:
    return torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def noise_of(key: str, *, draws: int = 1) -> torch.Tensor:
    """That of the four timesteps: each has its own."""
    return torch.cat([draw_noise(5, key, f"preliminary/{t}", (draws, 4, 16, 16)) for t in (1, 101, 201, 301)])


def parse(model, text="a photo of a car", concepts=("car",)) -> ConceptPrompt:
    return ConceptPrompt.parse(model.tokenizer, text, concepts)


@pytest.mark.parametrize("draws", [1, 2])
def test_batched_timesteps_equal_a_loop_over_them(model, draws):
    prompt = parse(model)
    got = attend(model, latents(), KEYS, prompt, spec(draws=draws), batch_size=7).maps
    context = model.encode_text([prompt.text])
    for image, key in enumerate(KEYS):
        noise = noise_of(key, draws=draws)
        maps = []
        for step, t in enumerate([1, 101, 201, 301]):
            alpha_bar = model.scheduler.alphas_cumprod[t]
            for draw in range(draws):
                zt = alpha_bar.sqrt() * latents()[image] + (1 - alpha_bar).sqrt() * noise[step * draws + draw]
                with AttentionCapture(model.unet, prompt.selector) as capture, torch.no_grad():
                    model.unet(zt[None], torch.tensor([t]), context)
                    maps.append(capture.read(16, 16)[0, 0])
        torch.testing.assert_close(got[image, 0], torch.stack(maps).mean(0), rtol=1e-4, atol=1e-7)


def test_a_sample_gets_the_same_map_alone_and_in_company(model):
    together = attend(model, latents(), KEYS, parse(model), spec(), batch_size=64).maps
    alone = attend(model, latents()[1:2], KEYS[1:2], parse(model), spec(), batch_size=64).maps
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-8)


def test_the_timesteps_kept_apart_average_to_the_map(model):
    apart = attend(model, latents(), KEYS, parse(model), spec(), per_timestep=True).maps
    assert apart.shape == (3, 4, 1, 16, 16)
    torch.testing.assert_close(apart.mean(1), attend(model, latents(), KEYS, parse(model), spec()).maps)


def test_a_shorter_schedule_sees_some_of_the_same_noisy_images(model):
    """t = 1 and 101, of every 100 or of every 20."""
    few = attend(model, latents(), KEYS, parse(model), spec(attention_steps=2), per_timestep=True).maps
    many = spec(timesteps=50, attention_steps=6)
    many = attend(model, latents(), KEYS, parse(model), many, per_timestep=True).maps
    torch.testing.assert_close(few, many[:, [0, 5]], rtol=1e-5, atol=1e-8)


def test_several_concepts_of_one_prompt_come_from_one_pass(model, monkeypatch):
    text = "a photo of a human with arms and legs"
    calls = []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    both = attend(model, latents(), KEYS, parse(model, text, ("arms", "legs")), spec(), batch_size=64).maps
    assert both.shape[1] == 2 and len(calls) == 1
    legs = attend(model, latents(), KEYS, parse(model, text, ("legs",)), spec(), batch_size=64).maps
    torch.testing.assert_close(both[:, 1:], legs, rtol=1e-5, atol=1e-8)


def test_the_seed_changes_the_map(model):
    first = attend(model, latents(), KEYS, parse(model), spec()).maps
    assert not torch.equal(first, attend(model, latents(), KEYS, parse(model), spec(seed=6)).maps)


def test_self_attention_at_the_lowest_timesteps_spreads_the_map_within_each_image(model):
    """Against a loop over images and timesteps; the letterbox neither gives nor takes."""
    valid = torch.ones(3, 16, 16, dtype=torch.bool)
    valid[0, 10:], valid[2, :, 5:] = False, False
    settings = spec(propagation_steps=2)
    got = attend(model, latents(), KEYS, parse(model), settings, valid=valid, batch_size=4).maps
    plain = attend(model, latents(), KEYS, parse(model), spec(), valid=valid).maps
    empty = model.encode_text([""])
    for image, key in enumerate(KEYS):
        noise = noise_of(key)
        inside = valid[image, None, None].float()
        spread = torch.zeros(1, 2, 16, 16)
        for step, t in enumerate([1, 101]):
            zt = model.scheduler.add_noise(latents()[image, None], noise[step, None], torch.tensor([t]))
            with MapPropagation(model.unet, 2) as probe, torch.no_grad():
                probe.maps = torch.cat([plain[image, None] * inside, inside], 1)
                model.unet(zt, torch.tensor([t]), empty)
                spread += probe.read(16, 16)
        torch.testing.assert_close(got[image], spread[0, :1] / spread[0, 1:], rtol=1e-4, atol=1e-7)
    assert got[:, 0][valid].std() < plain[:, 0][valid].std()


@pytest.mark.parametrize("presence_steps", [0, 2])
def test_propagation_costs_no_pass_that_presence_needs_anyway(model, monkeypatch, presence_steps):
    seen = []
    forward = model.unet.forward
    monkeypatch.setattr(model.unet, "forward", lambda z, *a, **k: seen.append(len(z)) or forward(z, *a, **k))
    attend(model, latents(), KEYS, parse(model), spec(propagation_steps=1, presence_steps=presence_steps))
    # 3 images: 4 timesteps of the first look, and in the second, steps {0} or {0, 3} without words, {0, 3} under y_b
    assert sum(seen) == {0: 3 * (4 + 1), 2: 3 * (4 + 2 + 2)}[presence_steps]


class Operations(TorchDispatchMode):
    """The names of all that torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


def test_nothing_is_added_in_an_order_that_a_gpu_is_free_to_choose(model):
    """Two writers of one lease must write the same bytes, and atomic additions come in any order."""
    settings = spec(draws=2, propagation_steps=2, presence_steps=2)
    with Operations() as operations:
        attend(model, latents(), KEYS, parse(model), settings, batch_size=7)
    assert "convolution" in operations.names
    assert not {name for name in operations.names if name.startswith(("index_add", "scatter_add"))}
