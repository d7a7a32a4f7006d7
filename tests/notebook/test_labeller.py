from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import ImageLabel, Labeller
from engine.corpus import Lease
from engine.distillation.spec import DistillationSpec
from engine.distillation.weights import ConceptModel
from engine.labelling.png import png_to_array
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.miniature import corpus_url
from engine.notebook.labeller import _make_spec
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.prefetch import Picture, Prefetch
from engine.run.rows import read_rows
from engine.run.shard import label_lease
from engine.run.source import ModelSource

TINY = {"timesteps": 4, "attention_steps": 2, "propagation_steps": 1, "presence_steps": 1}
TINY |= {"solver": "dpm++", "inpaint_steps": 2}
SEED = 5


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as far as its m′, whose adapters do something."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "concept").mkdir()
    (folder / "run.json").touch()
    source = ModelSource.named("miniature")
    concept = ConceptModel(source.load(device="cpu"), "lora", rank=2)
    generator = torch.Generator().manual_seed(0)
    for parameter in concept.trainable().values():
        parameter.data.normal_(0, 0.1, generator=generator)
    notes = {**source.check(LabelSpec(concept="car", prompt="a photo of a car")), "concept": "car"}
    (folder / "concept" / "weights.safetensors").write_bytes(concept.pack(rank=2, notes=notes))
    return folder


@pytest.fixture(scope="module")
def run(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelPlan:
    """Three cars, labelled as the job labels them."""
    adapter = str(tuned / "concept")
    plan = plan_labelling(
        spec=_make_spec("refined", concept="car", profile="fast", seed=SEED, **TINY),
        source=ModelSource.named("miniature"),
        input_url=corpus_url("car"),
        run_url=str(tmp_path_factory.mktemp("run")),
        distillation=DistillationSpec(),
        adapter=adapter,
        limit=3,
        config={"model": {"model": "miniature", "revision": None}, "stage": {"adapter": adapter}},
    )
    start_run(plan.run.url, plan.manifest)
    weights = [Path(url).read_bytes() for url in plan.weights]
    for lease in plan.leases:
        label_lease(lease, plan.source.build(plan.spec, device="cpu", weights=weights), plan.run)
    return plan


def read_pictures(leases: list[Lease]) -> list[Picture]:
    pictures = []
    for lease in leases:
        with Prefetch(lease) as items:
            pictures += [item for item in items if isinstance(item, Picture)]
    return pictures


def check_equal(plan: LabelPlan, labels: list[ImageLabel]) -> None:
    rows = {key: row for lease in plan.leases for key, (row,) in read_rows(plan.run, lease.id).items()}
    assert [label.key for label in labels] == list(rows)
    for label in labels:
        row = rows[label.key]
        assert np.array_equal(label.mask, png_to_array(row["mask"]))
        assert np.array_equal(label.heatmap, png_to_array(row["heatmap"]))
        assert np.array_equal(label.preliminary_mask, png_to_array(row["preliminary_mask"]))
        assert label.quality == pytest.approx(row["quality"], abs=1e-6)
        assert label.flags == row["flags"]


def test_the_same_keys_seed_and_adapter_give_the_masks_of_the_job(run: LabelPlan, tuned: Path) -> None:
    pictures = read_pictures(run.leases)
    labeller = Labeller.from_pretrained(concept="car", profile="fast", seed=SEED, adapter=tuned, device="cpu", **TINY)
    check_equal(run, labeller([picture.image for picture in pictures], keys=[picture.key for picture in pictures]))


def test_the_labeller_of_a_run_needs_no_settings(run: LabelPlan) -> None:
    pictures = read_pictures(run.leases)
    labeller = Labeller.from_run(run.run.url, device="cpu")
    check_equal(run, labeller([picture.image for picture in pictures], keys=[picture.key for picture in pictures]))
    coarse = Labeller.from_run(run.run.url, device="cpu", stage="preliminary")(pictures[0].image, keys=pictures[0].key)
    (row,) = read_rows(run.run, run.leases[0].id)[pictures[0].key]
    assert np.array_equal(coarse.preliminary_mask, png_to_array(row["preliminary_mask"]))
    assert np.isnan(coarse.refined_separation)


def test_of_a_run_of_several_concepts_one_is_named(tmp_path: Path) -> None:
    specs = (_make_spec("refined", concept=concept, profile="fast", **TINY) for concept in ("car", "dog"))
    plan = plan_labelling(
        spec=SeveralSpec(specs=tuple(specs)),
        source=ModelSource.named("miniature"),
        input_url=corpus_url("car"),
        run_url=str(tmp_path / "run"),
        distillation=DistillationSpec(method="none"),
        config={"model": {"model": "miniature"}},
    )
    start_run(plan.run.url, plan.manifest)
    with pytest.raises(ValueError, match=r"several concepts \(car, dog\); name one of them"):
        Labeller.from_run(plan.run.url)
    labeller = Labeller.from_run(plan.run.url, concept="dog", device="cpu")
    assert labeller.spec.concept == "dog" and labeller.spec.distractors == ("a photo of a car",)
    assert labeller(np.zeros((40, 60, 3), np.uint8)).mask.shape == (40, 60)


class Recorder(FakeLabeller):
    """Remembers how many images came at once."""

    def __init__(self) -> None:
        super().__init__("fake", LabelSpec(concept="car", prompt="a photo of a car"))
        self.calls: list[int] = []

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list:
        self.calls.append(len(images))
        return super().__call__(images, keys)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def labeller(recorder: Recorder) -> Labeller:
    return Labeller(recorder, recorder.spec)


def draw(height: int = 24, width: int = 32) -> np.ndarray:
    image = np.full((height, width, 3), 20, np.uint8)
    image[4:12, 6:20] = 220
    return image


def test_an_image_may_come_in_any_form_and_gives_one_label(labeller: Labeller, tmp_path: Path) -> None:
    image = draw()
    Image.fromarray(image).save(tmp_path / "photo.png")
    turned = Image.fromarray(np.rot90(image))
    turned.getexif()[0x0112] = 6  # to be shown turned right by 90 degrees
    for given in (image, Image.fromarray(image), tmp_path / "photo.png", str(tmp_path / "photo.png"), turned):
        label = labeller(given)
        assert isinstance(label, ImageLabel)
        assert np.array_equal(label.image, image)
        assert label.mask.shape == (24, 32) and label.mask.dtype == bool and label.mask[5, 7]


def test_many_images_give_a_list_in_order_with_positions_for_keys(labeller: Labeller, recorder: Recorder) -> None:
    images = [draw(24 + n, 32) for n in range(11)]
    labels = labeller(iter(images))
    assert [label.key for label in labels] == [str(n) for n in range(11)]
    assert [label.mask.shape[0] for label in labels] == [24 + n for n in range(11)]
    assert recorder.calls == [8, 3]
    assert len(labeller(np.stack([draw(), draw()]))) == 2
    assert labeller([]) == []


def test_a_key_and_nothing_else_draws_the_noise(labeller: Labeller) -> None:
    first, second, again = labeller([draw(), draw(), draw()], keys=["a", "b", "a"])
    assert first.quality == again.quality != second.quality
    assert labeller(draw(), keys="b").quality == second.quality


def test_a_notebook_shows_the_image_with_the_outline_of_its_mask(labeller: Labeller) -> None:
    label = labeller(draw(600, 900))
    with Image.open(io.BytesIO(label._repr_png_())) as picture:
        assert picture.format == "PNG" and picture.size == (512, 341)
    pixels = np.asarray(labeller(draw()).overlay())
    assert tuple(pixels[8, 12]) == (220, 220, 220)  # inside, as it is
    assert tuple(pixels[20, 28]) < (20, 20, 20)  # outside, darker
    assert (pixels == (255, 214, 0)).all(axis=2).any()  # the outline
    blank = replace(label, mask=np.zeros_like(label.mask), flags=["absent"])
    assert blank._repr_png_().startswith(b"\x89PNG") and "absent" in repr(blank)


def test_what_is_no_image_is_named(labeller: Labeller, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"image 1 \(.*broken\.jpg\) cannot be labelled: Not a readable"):
        labeller([draw(), tmp_path / "broken.jpg"])
    with pytest.raises(ValueError, match=r"image 0 cannot be labelled: an array of shape \(4, 4\)"):
        labeller(np.zeros((4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match="none"):
        labeller(tmp_path / "none.jpg")
    for keys in (["a"], [1, 2], "ab"):
        with pytest.raises(ValueError, match="one string for each of the 2"):
            labeller([draw(), draw()], keys=keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timestep": 5}, "no setting timestep; did you mean timesteps"),
        ({"nonsense": 5}, "no setting nonsense; there are advantage_power, "),
        ({"profile": "quick"}, "profile is 'quick'; give paper or fast"),
        ({"solver": "euler"}, r"solver is 'euler'; give ddim or dpm\+\+"),
        ({"stage": "labels"}, "stage is 'labels'; give preliminary or refined"),
        ({"precision": "int8"}, "precision is 'int8'; give float32 or bfloat16"),
        ({"timesteps": 5, "attention_steps": 9}, "attention_steps is 9"),
        ({"concept": "zebra"}, "zebra"),
        ({"model": "/nowhere"}, "no model folder '/nowhere'"),
        ({"adapter": "/nowhere"}, "/nowhere/weights.safetensors cannot be read"),
    ],
)
def test_wrong_settings_are_told_with_the_way_out(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Labeller.from_pretrained(**{"concept": "car", **settings})


def test_an_adapter_of_another_concept_is_refused(tuned: Path) -> None:
    with pytest.raises(ValueError, match="made for concept 'car', not 'dog'"):
        Labeller.from_pretrained(concept="dog", adapter=tuned)
