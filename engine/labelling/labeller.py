"""The labeller: images in, masks out, for one concept and one model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from engine.diffusion.geometry import Placement, bounding_box, canvas_to_image, covered, resize_mask, upsample_mask
from engine.diffusion.model import LatentDiffusion
from engine.diffusion.prompt import ConceptPrompt
from engine.distillation.weights import ConceptModel
from engine.labelling.attend import Attention, attend
from engine.labelling.batch import fit_batch
from engine.labelling.difference import difference
from engine.labelling.encode import Encoded, encode_images
from engine.labelling.for_each import for_each_on
from engine.labelling.heatmap import advantage_to_bytes, scale_to_bytes, weigh
from engine.labelling.inpainting import grow, remove_object
from engine.labelling.label import USELESS, Label
from engine.labelling.preliminary import heatmap_to_preliminary, mask_flags
from engine.labelling.quality import Signals, quality_of
from engine.labelling.refinement import Refined, refine
from engine.labelling.spec import LabelSpec, Stage
from engine.labelling.stopwatch import Stopwatch
from engine.labelling.weaknesses import find_weaknesses


class Labeller:
    """Labels batches of images with one model, which stays on its device.

    Args:
        model: m, on the device it shall run on.
        spec: what to label and how.
        weights: m′ as `engine.distillation` packs it; without, m stands in for it.
        batch_size: latents per forward pass of the U-Net; None takes what fits, up to 64.
        compiled: compile the U-Nets, which takes minutes at the first images.
        keep_backgrounds: hand out the first inpainting of each image with its label.

    Raises:
        PromptError: the model cannot be asked for the concept.
        ModelError: the weights are not of this model.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        spec: LabelSpec,
        *,
        weights: bytes | None = None,
        batch_size: int | None = None,
        compiled: bool = False,
        keep_backgrounds: bool = False,
    ) -> None:
        self.spec = spec
        self.keep_backgrounds = keep_backgrounds
        self.prompt = ConceptPrompt.parse(model.tokenizer, spec.prompt, [spec.concept])
        self.stopwatch, self.for_each = Stopwatch(model.device), for_each_on(model.device)
        self.concept = ConceptModel.load(model, weights).merged()
        self.batch_size = batch_size or fit_batch(self.distilled())
        if compiled:
            for unet in {self.distilled().unet, self.original().unet}:
                unet.compile()

    @torch.no_grad()
    def __call__(self, images: list[np.ndarray], keys: list[str], *, stage: Stage | None = None) -> list[Label]:
        """Label upright RGB images ((H, W, 3) uint8, any sizes); one label per image, in order.

        Args:
            stage: how far to go with these images, instead of as far as the spec says.
        """
        assert len(images) == len(keys)
        if not images:
            return []
        model = self.original()
        self.stopwatch.start()
        batch = encode_images(model, images, keys, for_each=self.for_each)
        self.stopwatch.lap("encode")
        found = attend(model, batch.z0, keys, self.prompt, self.spec, valid=batch.valid, batch_size=self.batch_size)
        self.stopwatch.lap("attention")
        return self.label(batch, found, stage)

    @torch.no_grad()
    def label(self, batch: Encoded, attention: Attention, stage: Stage | None = None) -> list[Label]:
        """The labels of images whose attention is known; one per image, in order.

        Args:
            stage: as in a call of the labeller.
        """
        heatmap = attention.maps[:, 0].float()
        preliminary = heatmap_to_preliminary(heatmap, batch.valid, rule=self.spec.mixture_rule)
        bytes_Bhw = scale_to_bytes(heatmap, batch.valid).cpu().numpy()
        advantage_Bhw = advantage_to_bytes(attention.advantage).cpu().numpy()
        masks, mixture, presence = preliminary.mask.cpu().numpy(), preliminary.mixture, attention.presence.tolist()
        separation, one_mode = mixture.separation.tolist(), mixture.one_mode.tolist()
        found = (bytes_Bhw, advantage_Bhw, masks, separation, one_mode, presence)
        labels: list[Label] = list(self.for_each(self._preliminary, batch.places, *found))
        self.stopwatch.lap("mixture")
        if (stage or self.spec.stage) == "refined":
            # Where there is nothing to paint over, or nothing to paint from, M_pre stays.
            usable = [i for i, label in enumerate(labels) if not USELESS & set(label.flags)]
            if usable:
                heat = weigh(heatmap, attention.advantage, batch.valid, self.spec.advantage_power)
                self._refine(labels, usable, batch, heat[usable], preliminary.mask[usable])
        return labels

    def original(self) -> LatentDiffusion:
        """m, until `distilled` is asked for."""
        return self.concept.original()

    def distilled(self) -> LatentDiffusion:
        """m′, or m where there is no other, until `original` is asked for."""
        return self.concept.distilled()

    def _preliminary(
        self,
        place: Placement,
        heatmap: np.ndarray,
        advantage: np.ndarray,
        mask: np.ndarray,
        separation: float,
        one_mode: bool,
        presence: float,
    ) -> Label:
        inside = mask[: place.rows, : place.columns]
        absent = presence < self.spec.presence_threshold  # never for NaN, which was not asked for
        full_size = upsample_mask(inside & (not absent), place.width, place.height)
        flags = mask_flags(full_size, one_mode=one_mode)
        if absent:
            flags = [*(flag for flag in flags if flag == "one_mode"), "absent"]
        return Label(
            heatmap=heatmap[: place.rows, : place.columns],
            advantage=advantage[: place.rows, : place.columns] if self.spec.presence_steps else None,
            preliminary_mask=inside,
            mask=full_size,
            bbox=bounding_box(full_size),
            area=covered(full_size),
            separation=separation,
            refined_separation=float("nan"),
            presence=presence,
            quality=0.0 if USELESS & set(flags) else separation,
            flags=flags,
        )

    def _refine(
        self, labels: list[Label], usable: list[int], batch: Encoded, heat: Tensor, preliminary: Tensor
    ) -> None:
        """Replaces the usable labels by those with M; `heat` and `preliminary` are those of the usable images."""
        settings = self.spec.refinement
        model, watch = self.distilled(), self.stopwatch
        watch.start()
        z0, canvases, valid = batch.z0[usable], batch.canvases[usable], batch.valid[usable]
        region = grow(preliminary, settings.dilate) & valid
        keys = [batch.keys[i] for i in usable]
        inpainted = remove_object(model, z0, region, keys, self.spec, batch_size=self.batch_size)
        watch.lap("inpainting")
        images = model.decode(z0).float().clamp(-1, 1) if settings.reference == "decoded" else canvases
        apart = difference(images, inpainted, settings)
        refined = refine(canvases, apart, heat, region, valid, settings, for_each=self.for_each).cpu()
        pixels, shades = canvases.cpu(), heat.cpu().numpy()

        def finish(k: int) -> Label:
            place = batch.places[usable[k]]
            height, width = place.rows * place.factor, place.columns * place.factor
            mask = refined.mask[k, :height, :width].numpy()
            own = shades[k, : place.rows, : place.columns]
            return self._finish(labels[usable[k]], place, mask, refined, k, own, pixels[k, :, :height, :width])

        finished = list(self.for_each(finish, range(len(usable))))
        for k, i in enumerate(usable):
            labels[i] = finished[k]
            if self.keep_backgrounds:
                labels[i] = replace(labels[i], background=canvas_to_image(inpainted[k, 0], batch.places[i]))
        watch.lap("refinement")

    def _finish(
        self,
        label: Label,
        place: Placement,
        mask: np.ndarray,
        refined: Refined,
        k: int,
        heat: np.ndarray,
        pixels: Tensor,
    ) -> Label:
        full_size = resize_mask(mask, place.width, place.height)
        one_mode = bool(refined.mixture.one_mode[k])
        flags = mask_flags(full_size, one_mode=one_mode)
        region = refined.region[k, : mask.shape[0], : mask.shape[1]].numpy()
        stability, missed, clusters = float(refined.stability[k]), float(refined.missed[k]), int(refined.clusters[k])
        flags += find_weaknesses(
            pixels.numpy(), mask, region, contrast=float(refined.contrast[k]), clusters=clusters, missed=missed
        )
        signals = Signals.measure(mask, heat, stability=stability)
        return replace(
            label,
            mask=full_size,
            bbox=bounding_box(full_size),
            area=covered(full_size),
            refined_separation=float(refined.mixture.separation[k]),
            quality=0.0 if USELESS & set(flags) else quality_of(signals),
            flags=flags,
            signals=signals,
        )
