"""The labeller taken apart: seconds of each stage, one after the other, on what the stage before has made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from engine.benchmark.clock import Clock
from engine.benchmark.operations import Operations
from engine.benchmark.rows import Report
from engine.benchmark.subject import CONCEPT, Subject
from engine.corpus.decode import decode_image
from engine.diffusion.geometry import Placement, image_to_canvas
from engine.labelling.attend import attend
from engine.labelling.components import count_components
from engine.labelling.difference import difference
from engine.labelling.heatmap import enlarge, enlarge_smoothly, weigh
from engine.labelling.inpainting import grow, remove_object
from engine.labelling.labeller import Labeller
from engine.labelling.mixture import fit_mixture
from engine.labelling.passes import Passes
from engine.labelling.preliminary import heatmap_to_preliminary
from engine.labelling.refinement import refine, weigh_difference
from engine.run.prefetch import Picture
from engine.run.rows import make_row

Result = TypeVar("Result")
MIXTURES = ("mixture of heatmaps", "mixture of differences", "number of contrasts")


def add_stages(
    report: Report,
    profile: str,
    subject: Subject,
    labeller: Labeller,
    clock: Clock,
    operations: Operations,
    *,
    whole: float,
) -> None:
    """Rows of every stage, the mixtures' share, and how near to P the two that matter come.

    Args:
        whole: seconds of the labeller per image.
    """
    count = len(subject.images)
    seconds = {name: value / count for name, value in time_stages(subject, labeller, clock).items()}
    for name, value in seconds.items():
        report.add(f"{profile}, {name}", value * 1000, "ms/image")
    report.add(f"{profile}, mixtures' share", sum(seconds[name] for name in MIXTURES) / whole)
    passes = Passes.of(labeller.spec)
    for name, made in (("attention", passes.attention), ("inpainting", passes.inpainting)):
        achieved = made * operations.unet / seconds[name] / report.about["P"]
        report.add(f"{name}, achieved ÷ P" if profile == "paper" else f"{profile}, {name}, achieved ÷ P", achieved)


@torch.no_grad()
def time_stages(subject: Subject, labeller: Labeller, clock: Clock) -> dict[str, float]:
    """Seconds of each stage for all images, as `Labeller` calls them."""
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Result]) -> Result:
        kept: list[Result] = []
        seconds[name] = clock.seconds(lambda: kept.append(work()), warm_up=clock.device.type != "cpu")[0]
        return kept[-1]

    spec, settings, keys = labeller.spec, labeller.spec.refinement, subject.keys
    images = timed("decode JPEG", lambda: [decode_image(data) for data in subject.jpegs])
    side = subject.model.latent_size
    place = Placement.fit(*subject.images[0].shape[1::-1], cells=side, factor=subject.model.factor)
    canvases = torch.stack([image_to_canvas(image, place) for image in subject.images]).to(subject.model.device)
    model = labeller.original()
    z0 = timed("encode", lambda: model.encode(canvases))
    valid = torch.ones(len(canvases), side, side, dtype=torch.bool, device=model.device)
    size = labeller.batch_size
    found = timed("attention", lambda: attend(model, z0, keys, labeller.prompt, spec, valid=valid, batch_size=size))
    heatmap = found.maps[:, 0].float()
    coarse = timed(MIXTURES[0], lambda: heatmap_to_preliminary(heatmap, valid, rule=spec.mixture_rule))
    heat = weigh(heatmap, found.advantage, valid, spec.advantage_power)
    region = grow(coarse.mask, settings.dilate) & valid
    tuned = labeller.distilled()
    painted = timed("inpainting", lambda: remove_object(tuned, z0, region, keys, spec, batch_size=size))
    timed("decode", lambda: tuned.decode(z0))
    seconds["inpainting"] -= seconds["decode"] * settings.inpaintings
    apart = timed("difference", lambda: difference(canvases, painted, settings))
    pixels = enlarge(region, subject.model.factor)
    evidence = weigh_difference(apart, enlarge_smoothly(heat, valid, subject.model.factor), settings)
    timed(MIXTURES[1], lambda: fit_mixture(evidence, torch.ones_like(pixels), rule=settings.refined_mixture_rule))
    timed(MIXTURES[2], lambda: count_components(apart, pixels))
    timed("rest of the refinement", lambda: refine(canvases, apart, heat, region, valid, settings).cpu())
    seconds["rest of the refinement"] -= seconds[MIXTURES[1]] + seconds[MIXTURES[2]]
    labels = labeller(subject.images[:1], keys[:1])
    picture = Picture(index=0, shard="bench", key=keys[0], image=images[0])
    timed("encode PNG", lambda: [make_row(picture, labels[0], CONCEPT) for _ in keys])
    return seconds
