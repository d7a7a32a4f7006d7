"""What is done for each image: in how many threads it may be, and that their number changes nothing."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.diffusion.model import load_model
from engine.labelling import for_each
from engine.labelling.for_each import count_threads, for_each_on
from engine.labelling.label import Label
from engine.labelling.labeller import Labeller
from engine.labelling.several import SeveralLabeller
from engine.labelling.spec import LabelSpec, RefinementSpec, SeveralSpec
from engine.miniature import model_path
from engine.miniature.scenes import draw_scene

SEVERAL = SeveralSpec(
    specs=tuple(
        LabelSpec(
            concept=concept,
            prompt=f"a photo of a {concept}",
            timesteps=4,
            attention_steps=2,
            propagation_steps=1,
            presence_steps=2,
            presence_threshold=-1e9,
            refinement=RefinementSpec(inpaint_steps=1, solver="dpm++", closing=1),
        )
        for concept in ("car", "dog")
    )
)


def machine(monkeypatch: pytest.MonkeyPatch, *, cpus: int, gpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter([path] * gpus))


@pytest.mark.parametrize(
    ("cpus", "gpus", "threads"), [(6, 1, 6), (6, 0, 6), (64, 1, 8), (32, 8, 4), (4, 8, 1), (1, 1, 1)]
)
def test_the_cpus_are_shared_among_the_gpus_of_the_machine(monkeypatch, cpus, gpus, threads):
    machine(monkeypatch, cpus=cpus, gpus=gpus)
    assert count_threads() == threads


def test_there_are_threads_beside_a_gpu_only(monkeypatch):
    def name(_) -> str:
        time.sleep(0.01)  # so that one thread does not do it all
        return threading.current_thread().name

    machine(monkeypatch, cpus=3, gpus=1)
    assert set(for_each_on(torch.device("cpu"))(name, range(9))) == {threading.current_thread().name}
    assert set(for_each_on(torch.device("cuda"))(name, range(9))) == {f"image_{number}" for number in range(3)}
    monkeypatch.setattr(for_each, "MOST", 1)
    assert for_each_on(torch.device("cuda")) is map


def test_results_and_errors_come_in_the_order_of_the_images(monkeypatch):
    def work(place: int) -> int:
        time.sleep(0.02 * (4 - place))  # the first is the last to end
        if place in (2, 3):
            raise ValueError(f"image {place}")
        return place

    machine(monkeypatch, cpus=4, gpus=1)
    found = iter(for_each_on(torch.device("cuda"))(work, range(4)))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="image 2"):
        next(found)


def images() -> list[np.ndarray]:
    """Scenes of sizes of their own."""
    return [draw_scene(2, number, objects=2).image[: 128 - 24 * number] for number in range(4)]


def check_equal(label: Label, other: Label) -> None:
    for field in fields(Label):
        np.testing.assert_array_equal(getattr(label, field.name), getattr(other, field.name), err_msg=field.name)


@pytest.mark.parametrize("several", [False, True])
def test_labels_are_bit_for_bit_the_same_in_any_number_of_threads(several):
    model = load_model(model_path())
    labeller = SeveralLabeller(model, SEVERAL) if several else Labeller(model, SEVERAL.specs[0])
    alone = labeller(images(), list("abcd"))
    threads = ThreadPoolExecutor(3).map
    labeller.for_each = threads
    for one in labeller.each if isinstance(labeller, SeveralLabeller) else []:
        one.for_each = threads
    together = labeller(images(), list("abcd"))
    pairs = zip(*(np.ravel(np.array(found, object)) for found in (together, alone)), strict=True)
    labels = [label for label, other in pairs if check_equal(label, other) is None]
    assert any(label.signals for label in labels), "nothing was painted, and half of it was not tested"


@pytest.mark.parametrize("several", [False, True])
def test_an_image_that_fails_fails_its_batch_as_without_threads(several):
    model, none = load_model(model_path()), np.zeros((40, 40), np.uint8)  # no colours
    labeller = SeveralLabeller(model, SEVERAL) if several else Labeller(model, SEVERAL.specs[0])
    errors = []
    for mapped in (map, ThreadPoolExecutor(3).map):
        labeller.for_each = mapped
        with pytest.raises(ValueError) as caught:
            labeller([*images()[:2], none], list("abc"))
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
