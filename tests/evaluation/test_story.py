"""What is painted once more, for a picture of the method or for a report, is painted as the run painted it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.distillation.spec import DistillationSpec
from engine.evaluation import story
from engine.labelling.labeller import Labeller
from engine.miniature import corpus_url
from engine.report.backgrounds import make_painter
from engine.run.directory import start_run
from engine.run.origin import find_origin
from engine.run.plan import plan_labelling
from engine.run.source import ModelSource, Precision
from tests.run.origins import SPEC

IMAGE = np.zeros((32, 32, 3), np.uint8)


def tell_story(run: str) -> None:
    story.write_story(find_origin(run), "segmenter", corpus_url("car"), "story.png")


def paint_for_report(run: str) -> None:
    make_painter(run)(IMAGE, "000000")


class Painted(Exception):
    pass


@pytest.mark.parametrize("paint", [tell_story, paint_for_report])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_backgrounds_are_painted_in_the_precision_of_the_run(
    paint: Callable[[str], None], precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_labelling(
        spec=SPEC,
        source=ModelSource.named("miniature", precision=precision),
        input_url=corpus_url("car"),
        run_url=str(tmp_path / "run"),
        distillation=DistillationSpec(method="none"),
        precision=precision,
        config={"model": {"model": "miniature"}},
    )
    start_run(plan.run.url, plan.manifest)

    def painted(self: Labeller, *arguments: object, **options: object) -> None:
        assert self.keep_backgrounds
        assert self.distilled().unet.dtype == self.distilled().vae.dtype == getattr(torch, precision)
        raise Painted

    def read_spread(*arguments: object, **options: object) -> list[Any]:
        return [(IMAGE, {"key": "000000"})]

    monkeypatch.setattr(Labeller, "__call__", painted)
    monkeypatch.setattr(story, "find_labels", lambda *arguments, **options: ([], None))
    monkeypatch.setattr(story, "read_spread", read_spread)
    with pytest.raises(Painted):
        paint(plan.run.url)
