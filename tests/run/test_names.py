"""Where results may go, whatever job makes them, and images without a name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engine import storage
from engine.distillation.spec import DistillationSpec
from engine.run.fake import FakeSource
from engine.run.names import results_url
from engine.run.origin import find_origin
from engine.run.plan import plan_labelling
from engine.run.predict import plan_prediction
from engine.run.segmenter import plan_training
from engine.run.synthesis import plan_synthesis
from engine.segmenter.files import SegmenterConfig
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.spec import SegmenterSpec
from engine.segmenter.unet import build_unet
from engine.synthesis.spec import SynthesisSpec
from tests.run.origins import SPEC, start_origin


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a job that was submitted with one."""
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def plan(job: str, folder: Path, output: str) -> None:
    """What the job does first with the place that its results shall go to."""
    if job == "label":
        plan_labelling(
            spec=SPEC,
            source=FakeSource(),
            input_url=str(folder / "corpus"),
            run_url=output,
            distillation=DistillationSpec(method="none"),
        )
    elif job == "synthesize":
        plan_synthesis(find_origin(str(folder / "run"), source=FakeSource()), SynthesisSpec(), output=output)
    elif job == "train":
        plan_training(run_url=str(folder / "run"), spec=SegmenterSpec(), output_url=output)
    elif job == "train on masks":
        truth = dataclasses.replace(SegmenterSpec(), labels="truth")
        plan_training(run_url=None, spec=truth, concept="car", input_url=str(folder / "corpus"), output_url=output)
    else:
        config = SegmenterConfig(concept="car", width=2, short_side=32)
        Segmenter(build_unet(2), config).save_pretrained(folder / "model")
        plan_prediction(model=str(folder / "model"), input_url=str(folder / "corpus"), output_url=output)


JOBS = ("label", "synthesize", "train", "train on masks", "predict")


@pytest.mark.parametrize("job", JOBS)
def test_a_place_that_ray_removes_is_refused(job: str, tmp_path: Path, copied: Path) -> None:
    start_origin(tmp_path, labelled=True)
    option = "--run" if job == "label" else "--output"
    with pytest.raises(ValueError, match=rf"^{option} {copied}/runs/car lies in Ray's copy .*; give an absolute path"):
        plan(job, tmp_path, "runs/car")
    plan(job, tmp_path, str(tmp_path / "new"))


@pytest.mark.parametrize("job", JOBS)
def test_a_place_without_a_name_is_neither_the_default_nor_the_working_directory(job: str, tmp_path: Path) -> None:
    start_origin(tmp_path, labelled=True)
    with pytest.raises(ValueError, match="is empty"):
        plan(job, tmp_path, "")


def test_only_local_places_are_taken_for_ones_that_ray_removes(copied: Path) -> None:
    url = "memory://working_dir_files/_ray_pkg_0/working_dir_files/_ray_pkg_0"
    assert results_url(url, "--run") == url
    assert results_url("/runs/car", "--run") == "/runs/car"
    with pytest.raises(storage.StorageError):
        results_url(f"file://{copied}", "--run")


def test_a_corpus_without_a_name_is_not_the_one_that_was_labelled(tmp_path: Path) -> None:
    start_origin(tmp_path, labelled=True)
    with pytest.raises(ValueError, match="is empty"):
        plan_training(run_url=str(tmp_path / "run"), spec=SegmenterSpec(), input_url="")
