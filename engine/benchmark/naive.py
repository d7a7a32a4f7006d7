"""The method as one would write it first, with diffusers and scikit-learn: what the labeller's speed is compared with.

Three images at a time, as the paper labels them; one pass of the U-Net for each timestep; every cross-attention map of
all tokens, layers and heads is kept until the end; m′ has its adapters on; an inpainting loop around the scheduler of
diffusers; scikit-learn's mixtures. It looks at the same z_t as the labeller and makes as many passes, so that its M̂
and x̂ are the labeller's up to rounding, and tests compare them. What the labeller does to a mask after the mixture is
left out here, in favour of this one.

Shapes: B images, H heads, N cells of a layer, K tokens, C latent channels, h × w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import Attention
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.nn import functional as F

from engine.diffusion.model import LatentDiffusion
from engine.diffusion.noise import draw_noise
from engine.diffusion.prompt import ConceptPrompt
from engine.distillation.weights import ConceptModel
from engine.labelling.attend import KEENNESS
from engine.labelling.spec import LabelSpec

BATCH = 3


@dataclass(frozen=True, kw_only=True)
class NaiveLabels:
    """Of B images: M̂ [B, h, w], presence [B], M_pre [B, h, w] bool, x̂ [B, 3, f h, f w], M [B, f h, f w] bool."""

    heatmap: Tensor
    presence: Tensor
    preliminary: Tensor
    painted: Tensor
    mask: Tensor


@dataclass
class _KeptMaps:
    """Attention as diffusers computes it without fused kernels; every map [B, H, N, K] is kept."""

    maps: list[Tensor] = field(default_factory=list)

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(project(x))
            for project, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        probabilities = attn.get_attention_scores(query, key)
        self.maps.append(probabilities.unflatten(0, (-1, attn.heads)))
        out = attn.batch_to_head_dim(torch.bmm(probabilities, value))
        return attn.to_out[1](attn.to_out[0](out))


class NaiveLabeller:
    """Labels square images of the model's own size with one noise draw, the prompts' ε and the DDIM solver.

    Args:
        model: m; its U-Net gets the adapters of m′, which are switched on and off.
        weights: m′ as `engine.distillation` packs it; without, m stands in for it.
    """

    def __init__(self, model: LatentDiffusion, spec: LabelSpec, *, weights: bytes | None = None) -> None:
        settings = spec.refinement
        assert (spec.draws, settings.solver, settings.inpaintings) == (1, "ddim", 1), "not what the paper does"
        self.model, self.spec = model, spec
        self.concept = ConceptModel.load(model, weights)
        prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
        self.tokens = prompt.selector[0].nonzero().flatten().tolist()
        self.scheduler = DDIMScheduler.from_config(model.scheduler.config)

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[NaiveLabels]:
        """Labels of (H, W, 3) uint8 images, three at a time."""
        parts = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
        return [self._label(images[part], keys[part]) for part in parts]

    def _label(self, images: list[np.ndarray], keys: list[str]) -> NaiveLabels:
        pixels = torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 127.5 - 1 for image in images])
        pixels = pixels.to(self.model.device)
        z0 = self.model.encode(pixels).float()
        self.concept.original()
        heatmap, presence = self.look(z0, keys)
        preliminary = _majority(torch.stack([split(values) for values in heatmap]))
        self.concept.distilled()
        painted = self.paint(z0, preliminary, keys)
        region = preliminary.repeat_interleave(self.model.factor, 1).repeat_interleave(self.model.factor, 2)
        apart = (pixels - painted).abs().mean(1)
        mask = torch.stack([split(values) for values in apart]) & region
        return NaiveLabels(heatmap=heatmap, presence=presence, preliminary=preliminary, painted=painted, mask=mask)

    def look(self, z0: Tensor, keys: list[str]) -> tuple[Tensor, Tensor]:
        """M̂ [B, h, w] and presence [B], timestep by timestep."""
        spec, size = self.spec, z0.shape[-2:]
        self.scheduler.set_timesteps(spec.timesteps)
        timesteps = sorted(self.scheduler.timesteps.tolist())[: spec.attention_steps]
        foreground, background, empty = self.model.encode_text([spec.prompt, spec.background_prompt, ""]).split(1)
        kept: list[list[Tensor]] = []
        errors: dict[int, list[Tensor]] = {}
        for t in timesteps:
            store = _KeptMaps()
            epsilon, noise = self._predict(z0, keys, t, foreground, store=store, layers="attn2")
            kept.append(store.maps)
            errors[t] = [(epsilon - noise).square().mean(1)]
        first = torch.stack([torch.stack([self._to_cells(m, size) for m in maps]).mean(0) for maps in kept]).mean(0)
        weight = (first - first.amin((1, 2), True)) / (first.amax((1, 2), True) - first.amin((1, 2), True))
        told = [timesteps[round(i)] for i in np.linspace(0, len(timesteps) - 1, spec.presence_steps)]
        spread = torch.zeros_like(first)
        sums = torch.zeros(3, *first.shape, device=z0.device)
        for t in sorted({*told, *timesteps[: spec.propagation_steps]}):
            store = _KeptMaps()
            near = t in timesteps[: spec.propagation_steps]
            epsilon, noise = self._predict(z0, keys, t, empty, store=store, layers="attn1" if near else "none")
            if near:
                spread += self._propagate(first, store.maps)
            if t in told:
                other, _ = self._predict(z0, keys, t, background)
                errors[t] += [(guess - noise).square().mean(1) for guess in (other, epsilon)]
                scale = errors[t][1].mean((1, 2), True)
                sums += torch.stack([error / scale for error in errors[t]])
        own, other, none = F.avg_pool2d(sums, 2 * round(size[1] / 16) + 1, stride=1, padding=round(size[1] / 16))
        weight = weight * ((other * none).sqrt() / own) ** KEENNESS
        weighed = (sums * weight).sum((2, 3))
        presence = 1 - weighed[0] / torch.minimum(weighed[1], weighed[2])
        return (spread / spec.propagation_steps if spec.propagation_steps else first), presence

    def paint(self, z0: Tensor, region: Tensor, keys: list[str]) -> Tensor:
        """x̂ [B, 3, H, W]: the inpainting loop."""
        spec, scheduler, model = self.spec, self.scheduler, self.model
        w = spec.refinement.guidance
        noise = torch.stack([draw_noise(spec.seed, key, "refined", (1, 2, *z0.shape[1:]))[0] for key in keys])
        zt, known = noise.to(z0.device).unbind(1)
        foreground, background = model.encode_text([spec.prompt, spec.background_prompt]).split(1)
        scheduler.set_timesteps(spec.refinement.inpaint_steps)
        for t in scheduler.timesteps:
            zt = torch.where(region[:, None], zt, scheduler.add_noise(z0, known, t[None]))
            if w in (0, 1):  # as diffusers leaves the second prompt out where guidance does nothing
                epsilon = self._call(zt, t, foreground if w else background)
            else:
                epsilon = w * self._call(zt, t, foreground) - (w - 1) * self._call(zt, t, background)
            zt = scheduler.step(epsilon, t, zt).prev_sample
        return model.decode(torch.where(region[:, None], zt, z0)).float().clamp(-1, 1)

    def _predict(
        self, z0: Tensor, keys: list[str], t: int, context: Tensor, *, store: Any = None, layers: str = "none"
    ) -> tuple[Tensor, Tensor]:
        """ε of the z_t of all images, and the noise that is in them; the layers of that name keep their maps."""
        noise = torch.cat([draw_noise(self.spec.seed, key, f"preliminary/{t}", (1, *z0.shape[1:])) for key in keys])
        noise = noise.to(z0.device)
        zt = self.scheduler.add_noise(z0, noise, torch.tensor([t]))
        unet = self.model.unet
        before = dict(unet.attn_processors)
        unet.set_attn_processor({name: store if f".{layers}." in name else p for name, p in before.items()})
        epsilon = self._call(zt, torch.tensor(t, device=z0.device), context)
        unet.set_attn_processor(before)
        return epsilon, noise

    def _call(self, zt: Tensor, t: Tensor, context: Tensor) -> Tensor:
        unet = self.model.unet
        return unet(zt.to(unet.dtype), t, context.repeat(len(zt), 1, 1)).sample.float()

    def _to_cells(self, maps_BHNK: Tensor, size: torch.Size) -> Tensor:
        """Attention to the concept of one layer, mean over heads, at latent size: [B, h, w]."""
        attention = maps_BHNK[..., self.tokens].float().sum(-1).mean(1)
        side = int(attention.shape[1] ** 0.5)
        return F.interpolate(attention.reshape(-1, 1, side, side), tuple(size), mode="bilinear")[:, 0]

    def _propagate(self, heatmap: Tensor, maps: list[Tensor]) -> Tensor:
        """Self-attention times M̂, mean over layers that weigh as many cells as they have: [B, h, w]."""
        total, weights = torch.zeros_like(heatmap), 0
        for maps_BHNN in maps:
            cells = maps_BHNN.shape[-1]
            side = int(cells**0.5)
            coarse = F.interpolate(heatmap[:, None], (side, side), mode="area").flatten(2)
            spread = (maps_BHNN.float().mean(1) @ coarse.transpose(1, 2)).reshape(-1, 1, side, side)
            total += cells * F.interpolate(spread, tuple(heatmap.shape[1:]), mode="bilinear")[:, 0]
            weights += cells
        return total / weights


def split(values: Tensor) -> Tensor:
    """The values that scikit-learn's mixture of two gives to the component of higher mean, or that lie above it."""
    flat = values.double().cpu().numpy().reshape(-1, 1)
    mixture = GaussianMixture(2, random_state=0).fit(flat)
    means = mixture.means_.ravel()
    mask = (mixture.predict(flat) == means.argmax()) & (flat[:, 0] > means.min())
    return torch.from_numpy(mask.reshape(values.shape)).to(values.device)


def _majority(masks: Tensor) -> Tensor:
    """The 3 × 3 mean filter at 0.5."""
    return F.avg_pool2d(masks[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0.5
