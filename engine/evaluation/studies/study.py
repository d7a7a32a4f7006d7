"""What a study is given, and what comes out of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from engine import storage
from engine.checks import check_at_least
from engine.distillation.weights import ConceptModel
from engine.run.origin import Origin
from engine.segmenter.spec import SegmenterSpec

SEGMENTER_SETTINGS = ("steps", "batch_size", "width", "crop", "short_side", "scale", "min_quality")
"""Options that are settings of the U-Nets of `ablation`."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What a person can ask of a study; those that a study has no use for are left alone.

    Attributes:
        limit: images to measure on, at most.
        timesteps: T of the study `timesteps`; None takes the run's.
        draws: the largest N of `draws`; repeats: with how many seeds.
        prompt, parts: the prompt of `parts` and the words of it that are looked for.
        weights: w of `guidance`, one column each; seeds: its rows.
        features: ONNX file of a feature network, or ``miniature``; None leaves FID and KID out.
        test: URL of the corpus that `ablation` measures on.
        steps, batch_size, width, crop, short_side, scale, min_quality: of each U-Net of `ablation`.
    """

    limit: int = 40
    timesteps: int | None = None
    draws: int = 8
    repeats: int = 5
    prompt: str | None = None
    parts: tuple[str, ...] = ()
    weights: tuple[float, ...] = (-6.5, -4.5, -2.5, -1, 0, 1, 2, 3, 4.5, 6, 7.5)
    seeds: int = 6
    features: str | None = None
    test: str | None = None
    steps: int = SegmenterSpec.steps
    batch_size: int = SegmenterSpec.batch_size
    width: int = SegmenterSpec.width
    crop: int = SegmenterSpec.crop
    short_side: int = SegmenterSpec.short_side
    scale: float = SegmenterSpec.scale
    min_quality: float = SegmenterSpec.min_quality

    def __post_init__(self) -> None:
        check_at_least(self, 1, "limit", "draws", "repeats", "seeds")
        if self.timesteps is not None:
            check_at_least(self, 1, "timesteps")
        self.segmenter()
        if strange := [weight for weight in self.weights if not math.isfinite(weight)]:
            raise ValueError(f"--weights names {strange[0]}; guidance weights are finite numbers")
        if not self.weights:
            raise ValueError("no guidance weight is given; give at least one, for example --weights 1")

    def segmenter(self, **others: Any) -> SegmenterSpec:
        """The settings of a U-Net of `ablation`, with others; ValueError for some that make no sense."""
        return SegmenterSpec(**{name: getattr(self, name) for name in SEGMENTER_SETTINGS}, **others)

    def describe_segmenter(self) -> str:
        """What a U-Net of `ablation` is shown, and its width."""
        crops = f"{self.batch_size} crops of {self.crop}² from images of short side {self.short_side}"
        crops += f" (of more and less of them, up to {self.scale:g} times)" if self.scale > 1 else ""
        return f"{self.steps} steps of {crops}, width {self.width}"


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyTask:
    """A study to be done.

    Attributes:
        origin: the run whose concept, prompt, model and label settings are studied.
        corpus: URL of the images, with ground truth where a study needs it.
        output: URL of the folder for the results.
        tell: gets a line now and then from a study that takes long.
    """

    origin: Origin
    corpus: str
    output: str
    device: str = "cpu"
    options: StudyOptions = field(default_factory=StudyOptions)
    tell: Callable[[str], None] = print

    @property
    def owner(self) -> str | None:
        """The concept that masks without a name are of; None in a run of several."""
        return None if self.origin.several else self.origin.spec.concept

    @cached_property
    def models(self) -> ConceptModel:
        """m and m′, loaded when first asked for."""
        return self.origin.load(device=self.device)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The result: figures as JSON values, the same as a Markdown table, pictures (PNG) by file name."""

    name: str
    figures: dict[str, Any]
    table: str
    pictures: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: str) -> list[str]:
        """Write NAME.md and the pictures, then NAME.json, which says that all is there; returns the URLs."""
        files = {**self.pictures, f"{self.name}.md": self.table.encode()}
        files[f"{self.name}.json"] = (json.dumps(self.figures, indent=1) + "\n").encode()
        urls = [storage.join(folder, name) for name in files]
        for url, data in zip(urls, files.values(), strict=True):
            storage.atomic_put(data, url)
        return urls


def format_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    """A Markdown table with numbers to the right of their columns."""
    lines = [f"**{title}**", "", f"| {' | '.join(columns)} |", f"| --- |{' ---: |' * (len(columns) - 1)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([*lines, *(["", note] if note else [])]) + "\n"


def rounded(values: Mapping[str, float], digits: int = 4) -> dict[str, float | None]:
    """Measures as JSON values, None for what has no value."""
    return {name: round(float(value), digits) if math.isfinite(value) else None for name, value in values.items()}


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as papers print it."""
    return "–" if value is None else f"{100 * value:.{digits}f}"
