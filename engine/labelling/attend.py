"""Two looks at the images through m: where the concept is (paper, Eq. 4), and whether it is there at all.

The first look is the paper's. M̂ = mean over the T0 lowest of T sampler timesteps, N draws, all cross-attention layers
and heads, of the attention to the concept's tokens, each z_t drawn from z0 directly. No z_t depends on another, so
timesteps and images share batches.

The second look asks at some of the same z_t for two more things.

- Propagation. Cross-attention tells what a place looks like, self-attention which places belong together. S M̂, with S
  the self-attention among the image's cells, gives each cell the mean of M̂ over the cells it attends to (the idea of
  Wang et al. 2023, arXiv 2309.02773, and others): parts that resemble no word by themselves are found, clutter with a
  look of its own is left. Seen under the empty prompt, at the lowest timesteps, mean over layers and heads.
- Advantage. M̂ asks where the model looks for a word, which is also what stands beside the object or resembles it. The
  errors e(y) = Σ_t ‖ε − ε(z_t, y)‖² / mean ‖ε − ε(z_t, y_b)‖² tell where the concept is from another side: which cells
  y_f explains better than y_b and no words do, and better than every y_d, the words for other things (distractors).

    A = log b / ē(y_f) − 2 max(0, log b / min_d ē(y_d)),    b = √(ē(y_b) ē("")), ē the mean of e over the cells around.

  What tells the concept from other things counts twice: most of what y_f explains, words for other things explain too.

- Presence. Where the concept is, y_f explains z_t better than all of these: against y_b alone any object would pass for
  the concept. The score is by how much the error falls where M̂ and A say that it is,

    E(y) = Σ_cells M̂ exp(κ A) e(y),    p = 1 − E(y_f) / min(E(y_b), E(""), min_d E(y_d)),

  with M̂ of the first look, scaled to 0..1 within each image. κ is higher than the power that a mask wants: it is enough
  that y_f explains a part of the image.

Of several prompts, each has the others for distractors, unless they are the same text, in which other words are looked
for: what they make of a z_t is known from their first looks. The second look at n prompts takes as many passes as at
one: all maps spread together, and "" and y_b are the same for all.

Shapes: B images, R = T0 N reverse steps per image, C concepts, h × w latent cells, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.diffusion.attention import AttentionCapture, MapPropagation
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import add_noise, draw_noise
from engine.diffusion.prompt import ConceptPrompt
from engine.diffusion.sampling import predict_noise
from engine.diffusion.schedule import sampler_timesteps
from engine.labelling.heatmap import weigh
from engine.labelling.spec import LabelSpec

STAGE = "preliminary"
NEIGHBOURHOOD = 1 / 16
"""How far around a cell the errors are averaged for its advantage, of the width of the latents."""
KEENNESS = 3.5
"""κ. AUROC of presence on miniature scenes by the fast schedule, any concept asked for, at 1.5, 3.5, 5: where a scene
shows one thing .977, .976, .973, where it shows two .888, .909, .923."""
RIVALRY = 2.0
"""How much what a distractor explains takes off the advantage, of what y_f explains."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What was found.

    Attributes:
        maps: [B, C, h, w] float32 in 0..1, M̂ after its propagation; with `per_timestep` [B, T0, C, h, w], lowest noise
            first, before it.
        presence: [B] float32, p of the first concept; NaN if it was not asked for.
        advantage: [B, h, w] float32, A; 0 if presence was not asked for.
    """

    maps: Tensor
    presence: Tensor
    advantage: Tensor


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Some z_t of some images: image and step [n] tell which, t is the timestep, epsilon the noise."""

    image: Tensor
    step: Tensor
    t: Tensor
    zt: Tensor
    epsilon: Tensor


class NoisyLatents:
    """Every z_t that is looked at, in batches. Row r = (image, step, draw) in lexical order."""

    def __init__(self, model: LatentDiffusion, z0: Tensor, keys: list[str], spec: LabelSpec, batch_size: int) -> None:
        self.z0, self.batch_size = z0.float(), batch_size
        self.timesteps = torch.tensor(sampler_timesteps(model.scheduler, spec.timesteps)[::-1][: spec.attention_steps])
        self.alpha_bar = model.scheduler.alphas_cumprod[self.timesteps]
        self.draws = spec.draws
        steps, draws = len(self.timesteps), spec.draws
        shape = (draws, *z0.shape[1:])
        # Noise belongs to a timestep, not to its place in the schedule: shorter schedules see some of the same z_t.
        self.noise = torch.cat(
            [draw_noise(spec.seed, key, f"{STAGE}/{t}", shape) for key in keys for t in self.timesteps.tolist()]
        )
        self.image_of = torch.arange(len(z0)).repeat_interleave(steps * draws)
        self.step_of = torch.arange(steps).repeat_interleave(draws).repeat(len(z0))

    def __call__(self, asked: Tensor | None = None) -> Iterator[_Chunk]:
        """All rows, or those of the steps asked for ([T0] bool)."""
        rows = torch.arange(len(self.noise))
        rows = rows if asked is None else rows[asked[self.step_of]]
        device = self.z0.device
        for start in range(0, len(rows), self.batch_size):
            chunk = rows[start : start + self.batch_size]
            image, step = self.image_of[chunk].to(device), self.step_of[chunk]
            epsilon = self.noise[chunk].to(device)
            zt = add_noise(self.z0[image], epsilon, self.alpha_bar[step])
            t = self.timesteps[step].to(device)
            yield _Chunk(image=image, step=step.to(device), t=t, zt=zt, epsilon=epsilon)


@torch.no_grad()
def attend(
    model: LatentDiffusion,
    z0: Tensor,
    keys: list[str],
    prompt: ConceptPrompt,
    spec: LabelSpec,
    *,
    valid: Tensor | None = None,
    batch_size: int = 64,
    per_timestep: bool = False,
) -> Attention:
    """M̂ of each image for each concept of the prompt, and the presence of what the prompt says.

    Args:
        z0: [B, C, h, w] scaled latents.
        keys: of the samples; their noise derives from (seed, key, stage).
        valid: [B, h, w] bool, the cells that belong to the images; None means all.
        batch_size: latents per forward pass of the U-Net; does not change the result beyond rounding.
        per_timestep: keep the timesteps apart and skip the second look, for studies.
    """
    if not per_timestep:
        return attend_each(model, z0, keys, [prompt], spec, valid=valid, batch_size=batch_size)[0]
    noisy = NoisyLatents(model, z0, keys, spec, batch_size)
    maps, _ = _look(model, noisy, prompt, spread_evenly(0, len(noisy.timesteps)))
    never = torch.full((len(z0),), torch.nan, device=z0.device)
    return Attention(maps=maps, presence=never, advantage=torch.zeros_like(maps[:, 0, 0]))


@torch.no_grad()
def attend_each(
    model: LatentDiffusion,
    z0: Tensor,
    keys: list[str],
    prompts: Sequence[ConceptPrompt],
    spec: LabelSpec,
    *,
    valid: Tensor | None = None,
    batch_size: int = 64,
) -> list[Attention]:
    """What `attend` finds for each prompt with the others, where they differ, as distractors too; up to rounding.

    Args:
        spec: of all of them, but for concept and prompt.
        z0, keys, valid, batch_size: as `attend` takes them.
    """
    noisy = NoisyLatents(model, z0, keys, spec, batch_size)
    told = spread_evenly(spec.presence_steps, len(noisy.timesteps))
    looks = _look_at_each(model, noisy, prompts, told)
    counted = torch.ones_like(z0[:, 0], dtype=torch.float32) if valid is None else valid.to(z0.device).float()
    maps, errors = [maps.mean(1) for maps, _ in looks], torch.stack([errors for _, errors in looks])
    return _look_again(model, noisy, [p.text for p in prompts], maps, errors, counted, told.to(z0.device), spec)


def _look_at_each(
    model: LatentDiffusion, noisy: NoisyLatents, prompts: Sequence[ConceptPrompt], told: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """What `_look` finds for each prompt; words of one text are looked for at once."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for text in dict.fromkeys(prompt.text for prompt in prompts):
        same = {place: prompt for place, prompt in enumerate(prompts) if prompt.text == text}
        concepts = tuple(concept for prompt in same.values() for concept in prompt.concepts)
        selector = torch.cat([prompt.selector for prompt in same.values()])
        maps, errors = _look(model, noisy, ConceptPrompt(text=text, concepts=concepts, selector=selector), told)
        own = maps.split([len(prompt.concepts) for prompt in same.values()], 2)
        found.update({place: (part, errors) for place, part in zip(same, own, strict=True)})
    return [found[place] for place in range(len(prompts))]


def _look(model: LatentDiffusion, noisy: NoisyLatents, prompt: ConceptPrompt, told: Tensor) -> tuple[Tensor, Tensor]:
    """The first look: M̂ of each timestep [B, T0, C, h, w], and what the second look will need.

    Args:
        told: [T0] bool, the steps that tell presence.

    Returns:
        also the squared errors under the prompt at the z_t of these steps [n, h, w].
    """
    (images, _, rows, columns), steps = noisy.z0.shape, len(noisy.timesteps)
    text, told = model.encode_text([prompt.text]), told.to(noisy.z0.device)
    maps, errors = [], []
    with AttentionCapture(model.unet, prompt.selector) as capture:
        for chunk in noisy():
            predicted = predict_noise(model, chunk.zt, chunk.t, text.expand(len(chunk.zt), -1, -1))
            maps.append(capture.read(rows, columns))
            errors.append((predicted - chunk.epsilon).square().mean(1)[told[chunk.step]])
    return torch.cat(maps).unflatten(0, (images, steps, noisy.draws)).mean(2), torch.cat(errors)


def _look_again(
    model: LatentDiffusion,
    noisy: NoisyLatents,
    texts: list[str],
    maps: list[Tensor],
    errors_of_prompts: Tensor,
    counted: Tensor,
    told: Tensor,
    spec: LabelSpec,
) -> list[Attention]:
    """The second look.

    Args:
        texts: the prompts.
        maps: [B, C, h, w] of each prompt, M̂ of the first look.
        errors_of_prompts: [P, z_t of the steps of `told`, h, w], squared errors under each y_f.
        counted: [B, h, w], 1 at the cells that belong to the images.
        told: [T0] bool, the steps that tell presence.
    """
    empty, *others = model.encode_text(["", spec.background_prompt, *spec.distractors]).split(1)
    propagated = torch.arange(len(told), device=told.device) < spec.propagation_steps
    # One more channel tells how much of the attention stays within the image.
    source = torch.cat([*(own * counted[:, None] for own in maps), counted[:, None]], 1)
    asked = 1 + len(others)  # "", y_b and the distractors of all
    # Kept apart until all are there: added as they come, a GPU would add them in any order, with other last digits.
    spread_of_rows, errors_of_rows = [], []
    begun = 0
    for chunk in noisy((told | propagated).cpu()):
        near, tells = propagated[chunk.step], told[chunk.step]
        with MapPropagation(model.unet, source.shape[1]) as probe:
            probe.maps = source[chunk.image]
            guess = predict_noise(model, chunk.zt, chunk.t, empty.expand(len(chunk.zt), -1, -1))
            spread_of_rows.append(probe.read(*counted.shape[1:])[near])
        if tells.any():
            zt, t, epsilon, image = (v[tells] for v in (chunk.zt, chunk.t, chunk.epsilon, chunk.image))
            guesses = [predict_noise(model, zt, t, text.expand(len(zt), -1, -1)) for text in others]
            found = [(g - epsilon).square().mean(1) for g in (guess[tells], *guesses)]
            found += errors_of_prompts[:, begun : begun + len(zt)]
            begun += len(zt)
            error = torch.stack(found) * counted[image]
            # Where ᾱ = 0, z_t is the noise itself: no error under any prompt, which tells nothing.
            unit = error[1].mean((1, 2)).clamp(min=torch.finfo(error.dtype).tiny)
            errors_of_rows.append(error / unit[:, None, None])
    errors = counted.new_zeros(asked + len(maps), *counted.shape)
    if errors_of_rows:
        errors = torch.cat(errors_of_rows, 1).unflatten(1, (len(counted), -1)).sum(2)
    after = maps
    if spec.propagation_steps:
        spread = torch.cat(spread_of_rows).unflatten(0, (len(counted), -1)).sum(1)
        after = list((spread[:, :-1] / spread[:, -1:]).split([own.shape[1] for own in maps], 1))
    attentions = []
    for place, text in enumerate(texts):
        # Those under no words, y_b and every y_d, and last those under the prompt itself.
        rivals = [asked + other for other, rival in enumerate(texts) if rival != text]
        order = [*range(asked), *rivals, asked + place]
        advantage = _advantage(errors[order]) * counted
        weighed = weigh(maps[place][:, 0], advantage, counted > 0, KEENNESS)
        *rest, own = (errors[order] * weighed).sum((2, 3))
        presence = 1 - own / torch.stack(rest).amin(0)
        attentions.append(Attention(maps=after[place], presence=presence, advantage=advantage))
    return attentions


def _advantage(errors: Tensor) -> Tensor:
    """A of errors [3 + D, B, h, w] under no words, y_b, each y_d and y_f: [B, h, w]; 0 where there are none."""
    reach = max(1, round(NEIGHBOURHOOD * errors.shape[-1]))
    around = F.avg_pool2d(errors, 2 * reach + 1, stride=1, padding=reach).clamp(min=torch.finfo(errors.dtype).tiny)
    empty, background, *distractors, own = around.log()
    other = (background + empty) / 2
    advantage = other - own
    for distractor in distractors:
        advantage = torch.minimum(advantage, other - own - RIVALRY * (other - distractor))
    return advantage


def spread_evenly(count: int, steps: int) -> Tensor:
    """[steps] bool: `count` of the steps, or all if there are fewer."""
    asked = torch.zeros(steps, dtype=torch.bool)
    asked[torch.linspace(0, steps - 1, min(count, steps)).round().long()] = True
    return asked
