"""The options of the stages after labelling: synthesis and training. Their docstrings are the manual."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from engine.checks import naming_flags
from engine.segmenter.spec import SegmenterSpec
from engine.synthesis.spec import SynthesisSpec


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What to make. Only the count may change later: what is there is kept, and more is added."""

    count: int = SynthesisSpec.count
    """How many samples, pure backgrounds among them."""
    guidance: float = SynthesisSpec.guidance
    """w of the objects: 1 follows the prompt of the concept alone, in half the time; above 1 also pushes away from
    background, which makes objects that are whole."""
    strength: float = SynthesisSpec.strength
    """How far the images of the corpus that objects begin from are noised first, of 1; the more, the less is left of
    them. At 1 objects begin from noise alone, as the paper's do."""
    backgrounds: float = SynthesisSpec.backgrounds
    """Fraction of the samples that are pure backgrounds, with an empty mask."""
    background_guidance: float = SynthesisSpec.background_guidance
    """w of the pure backgrounds: 0 follows the background prompt alone, in half the time; below 0 also pushes away from
    the concept."""
    seed: int = SynthesisSpec.seed
    """A sample depends on this, its index and the labels only, not on batches or workers."""
    solver: Literal["ddim", "dpm++"] = SynthesisSpec.solver
    """The sampler."""
    steps: int = SynthesisSpec.steps
    """Its steps."""
    shard_size: int = SynthesisSpec.shard_size
    """Samples per tar, which is also what a worker takes on at a time."""


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Settings of the segmenter's training; part of its fingerprint."""

    labels: Literal["refined", "preliminary", "truth"] = SegmenterSpec.labels
    """refined: the masks of the run. preliminary: those of the attention alone. truth: the corpus's own, to compare
    with."""
    synthetic: bool = SegmenterSpec.synthetic
    """Learn from RUN/synthetic as well (see jobs/synthesize.py)."""
    steps: int = SegmenterSpec.steps
    """Optimizer steps."""
    batch_size: int = SegmenterSpec.batch_size
    """Crops per step, over all workers."""
    crop: int = SegmenterSpec.crop
    """Side of the random crops."""
    short_side: int = SegmenterSpec.short_side
    """Of the images, which are resized to it."""
    width: int = SegmenterSpec.width
    """Channels of the first level of the U-Net."""
    learning_rate: float = SegmenterSpec.learning_rate
    """Of Adam, at its peak."""
    warmup: int = SegmenterSpec.warmup
    """Steps until it is reached."""
    ema_decay: float = SegmenterSpec.ema_decay
    """Of the moving average of the weights that is kept; 0 keeps the last ones."""
    scale: float = SegmenterSpec.scale
    """Crops show up to so many times more, or less, of an image than their side does; 1: always the same."""
    flip: bool = SegmenterSpec.flip
    """Mirror half of the crops."""
    seed: int = SegmenterSpec.seed
    """Of first weights, order and crops."""
    min_quality: float = SegmenterSpec.min_quality
    """Leave out labels of smaller quality. Not with --labels truth alone, which have none."""
    drop_flags: tuple[str, ...] = SegmenterSpec.drop_flags
    """Leave out labels with one of these flags. Likewise."""
    precision: Literal["float32", "bfloat16"] = SegmenterSpec.precision
    """Of the forward pass; what does not compute bfloat16 in hardware, as many CPUs, takes float32."""


def synthesis_spec(options: Synthesis, *, prefix: str = "") -> SynthesisSpec:
    """The settings of a synthesis; ValueError, naming the flag with its prefix, for one that makes no sense."""
    with naming_flags(options, prefix=prefix):
        return SynthesisSpec(**dataclasses.asdict(options))


def segmenter_spec(options: Segmentation, *, prefix: str = "") -> SegmenterSpec:
    """The settings of a segmenter's training; ValueError, likewise, for one that makes no sense, or has no use."""
    with naming_flags(options, prefix=prefix):
        _refuse_useless(options)
        return SegmenterSpec(**dataclasses.asdict(options))


def _refuse_useless(options: Segmentation) -> None:
    if options.labels == "truth" and not options.synthetic:
        for name in ("min_quality", "drop_flags"):
            if (value := getattr(options, name)) != getattr(SegmenterSpec, name):
                raise ValueError(
                    f"{name} is {value}, but the corpus's own masks, which labels truth takes, have no quality and no "
                    "flags; leave it out, or learn from the labels of a run"
                )
