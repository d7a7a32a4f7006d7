"""Several concepts in one run, without Ray: their plan, their labels, and what goes on from there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.diffusion.geometry import resize_mask
from engine.labelling.label import Label
from engine.labelling.png import png_to_array
from engine.run.command import parse_options
from engine.run.concept import read_sample
from engine.run.directory import start_run
from engine.run.fake import FakeSeveralLabeller, FakeSource
from engine.run.labelled import open_labelled
from engine.run.labelling import Label as Options
from engine.run.labelling import make_plan
from engine.run.names import concept_url
from engine.run.origin import find_origin
from engine.run.plan import LabelPlan
from engine.run.segmenter import plan_training, read_task
from engine.run.several import read_concepts
from engine.run.shard import label_lease
from engine.run.status import read_status
from engine.run.status_text import describe_status
from engine.run.training import make_receipt
from engine.segmenter.spec import SegmenterSpec
from schemas.receipt import Receipt
from schemas.run import RunManifest
from tests.corpus.hostile import draw_noise, encode, make_tar

BOTH = ("car", "dog")
GOOD = [f"{n:06d}" for n in range(6) if n != 2]


def write_corpus(folder: Path, *, broken: tuple[int, ...] = (2,)) -> Path:
    folder.mkdir(exist_ok=True)
    members = [(f"{n:06d}.png", b"broken" if n in broken else encode(draw_noise(n))) for n in range(6)]
    (folder / "000000.tar").write_bytes(make_tar(members))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")


def plan_run(corpus: Path, run: Path, *more: str, concepts: tuple[str, ...] = BOTH, method: str = "none") -> LabelPlan:
    named = [word for concept in concepts for word in ("--concept", concept)]
    given = [*named, "--input", str(corpus), "--run", str(run), "--method", method, *more]
    return make_plan(parse_options(Options, job="label", description="", arguments=given), FakeSource())


def label(plan: LabelPlan, labeller: object = None) -> list[Receipt]:
    """What workers do."""
    start_run(plan.run.url, plan.manifest)
    work = labeller or plan.source.build(plan.spec, device="cpu")
    return [label_lease(lease, work, plan.run) for lease in plan.remaining]  # type: ignore[arg-type]


def rows_of(run: Path, folder: str = "labels") -> list[dict]:
    return [row for path in sorted((run / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


class Halves(FakeSeveralLabeller):
    """Finds one concept on the left of every image and another on the right; remembers the keys it was shown."""

    def __init__(self, plan: LabelPlan, *, bad: tuple[str, ...] = ()) -> None:
        super().__init__("fake", plan.spec)  # type: ignore[arg-type]
        self.keys: list[str] = []
        self.bad = bad

    def __call__(self, images: list[np.ndarray], keys: list[str]) -> list[list[Label]]:
        if set(keys) & set(self.bad):
            raise RuntimeError("not this one")
        self.keys += keys
        found = super().__call__(images, keys)
        for image, labels in zip(images, found, strict=True):
            for place, each in enumerate(labels):
                mask = np.zeros(image.shape[:2], bool)
                mask[:, place * image.shape[1] // 2 : (place + 1) * image.shape[1] // 2] = True
                own = {"mask": mask, "preliminary_mask": mask, "area": float(mask.mean()), "flags": []}
                labels[place] = Label(**{**vars(each), **own})
        return found


def test_every_image_has_a_row_for_each_concept_and_no_pixel_is_in_two_masks(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    (receipt,) = label(plan)
    rows = rows_of(tmp_path / "run")
    assert [(row["key"], row["concept"]) for row in rows] == [(key, c) for key in GOOD for c in BOTH]
    for car, dog in zip(rows[::2], rows[1::2], strict=True):
        first, second = png_to_array(car["mask"]), png_to_array(dog["mask"])
        assert first.any() and not (first & second).any()
        assert car["area"] == pytest.approx(first.mean())
    # Images are counted, not rows: of six, the one that nobody could decode is a sixth.
    assert (receipt.seen, receipt.labelled, receipt.quarantined) == (6, 5, {"corrupt_image": 1})


def test_each_concept_has_the_others_for_distractors(corpus: Path, tmp_path: Path) -> None:
    named = ("--distractor", "bird", "--distractor", "cat")
    plan = plan_run(corpus, tmp_path / "run", *named, concepts=("car", "human"))
    for concept, words in (("car", ("bird", "cat", "human")), ("human", ("bird", "cat", "car"))):
        assert plan.spec.of(concept).distractors == tuple(f"a photo of a {word}" for word in words)
    with pytest.raises(ValueError, match="--distractor 'car' is the concept itself"):
        plan_run(corpus, tmp_path / "run", "--distractor", "car")


def test_a_run_of_one_is_fingerprinted_as_ever(corpus: Path, tmp_path: Path) -> None:
    (one, two) = (plan_run(corpus, tmp_path / "run", concepts=names).manifest.fingerprint for names in (("car",), BOTH))
    assert (one["concept"], one["prompt"], one["distractors"]) == ("car", "a photo of a car", [])
    assert not {"concepts", "prompts", "several_version"} & one.keys()
    different = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
    assert different == {"concept", "prompt", "concepts", "prompts", "several_version"}


def test_a_run_that_is_labelled_has_nothing_left_to_do(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    assert not plan.done
    label(plan)
    assert plan_run(corpus, tmp_path / "run").done


def test_only_images_that_failed_are_tried_again_and_all_rows_of_the_others_stay(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plan = plan_run(corpus, run)
    (receipt,) = label(plan, Halves(plan, bad=("000004",)))
    assert (receipt.labelled, receipt.quarantined) == (4, {"corrupt_image": 1, "label_error": 1})
    write_corpus(corpus, broken=())
    retried = plan_run(corpus, run, "--retry-quarantined")
    labeller = Halves(retried)
    (receipt,) = label(retried, labeller)
    assert labeller.keys == ["000002", "000004"]
    assert (receipt.seen, receipt.labelled, receipt.kept) == (6, 6, 4)
    clean = plan_run(corpus, tmp_path / "clean")
    label(clean, Halves(clean))
    assert rows_of(run) == rows_of(tmp_path / "clean")
    assert [(row["key"], row["concept"]) for row in rows_of(run)] == [(f"{n:06d}", c) for n in range(6) for c in BOTH]


def test_preliminary_masks_of_the_sample_are_made_once_for_all_concepts(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run", method="lora")
    assert plan.sample is not None
    start_run(plan.run.url, plan.manifest)
    label(plan.sample, Halves(plan.sample))
    assert [(row["key"], row["concept"]) for row in rows_of(tmp_path / "run", "preliminary")] == [
        (key, concept) for key in GOOD for concept in BOTH
    ]
    for task, concept in zip(plan.concepts, BOTH, strict=True):
        assert task.spec.concept == concept and task.folder == str(tmp_path / "run" / "concepts" / concept)
        own = {row["key"]: row for row in rows_of(tmp_path / "run", "preliminary") if row["concept"] == concept}
        tally: Counter[str] = Counter()
        masks = [mask for _, mask in read_sample(task, tally)]
        assert tally == {"used": 5, "quarantined": 1}
        for mask, key in zip(masks, GOOD, strict=True):
            assert np.array_equal(mask, png_to_array(own[key]["preliminary_mask"]))


def finish_concept(run: str, concept: str, fingerprint: str) -> bytes:
    """An m′ as the fine-tuning leaves it."""
    folder, data = Path(concept_url(run, concept)), f"m′ of {concept}".encode()
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(data)
    receipt = make_receipt(fingerprint, {"used": 5}, [1.0], name="weights.safetensors", data=data, seconds={})
    (folder / "receipt.json").write_text(receipt.to_json())
    return data


def test_a_concept_whose_fine_tuning_is_done_is_not_fine_tuned_again(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plan = plan_run(corpus, run, method="lora")
    start_run(plan.run.url, plan.manifest)
    finish_concept(plan.run.url, "car", plan.run.fingerprint)
    again = plan_run(corpus, run, method="lora")
    assert [task.spec.concept for task in again.concepts] == ["dog"] and len(again.weights) == 2
    finish_concept(plan.run.url, "dog", plan.run.fingerprint)
    done = plan_run(corpus, run, method="lora")
    assert (done.concepts, done.sample, done.weights) == ((), None, plan.weights)
    assert done.weights == tuple(str(run / "concepts" / name / "weights.safetensors") for name in BOTH)
    assert "done:" in done.describe() and "concepts/dog/weights.safetensors" in done.describe()


def test_workers_get_the_m_prime_of_each_concept_in_order(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    plan = plan_run(corpus, tmp_path / "run", method="lora")
    start_run(plan.run.url, plan.manifest)
    data = [finish_concept(plan.run.url, concept, plan.run.fingerprint) for concept in BOTH]
    given = []
    monkeypatch.setattr(FakeSource, "build", lambda self, spec, **options: given.append(options["weights"]))
    plan_run(corpus, tmp_path / "run", method="lora").task.load(device="cpu", threads=1)
    assert given == [data]


def test_the_status_tells_of_every_concept(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run", method="lora")
    assert plan.sample is not None
    label(plan.sample)
    finish_concept(plan.run.url, "dog", plan.run.fingerprint)
    label(plan)
    status = read_status(str(tmp_path / "run"))
    assert [(stage.name, stage.images) for stage in status.stages] == [("preliminary", 6), ("refined", 6)]
    assert [training.name for training in status.trainings] == ["dog/concept"]
    text = describe_status(status)
    assert text.index("\nsample ") < text.index("\ndog fine-tuning ") < text.index("\nlabels ")


def test_concepts_come_from_options_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "concepts.txt"
    file.write_text("dog\n# birds come later\nfire truck  # both words\n\n")
    assert read_concepts(("car",), str(file)) == ("car", "dog", "fire truck")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())  # as some editors save it
    assert read_concepts((), str(file)) == ("dog", "fire truck")


@pytest.mark.parametrize(
    ("concepts", "said"), [((), "no concept is named"), (("car", "Car "), "'Car ' is there already")]
)
def test_concepts_that_make_no_sense_are_refused(concepts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_concepts(concepts, None)


def test_other_concepts_need_another_run(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    start_run(plan.run.url, plan.manifest)
    with pytest.raises(ValueError, match=r"started with other settings .*concepts"):
        plan_run(corpus, tmp_path / "run", concepts=("car", "bird"))


def test_a_run_that_labelled_each_concept_apart_is_refused_in_a_sentence(corpus: Path, tmp_path: Path) -> None:
    old = {"concept": "car, dog", "concepts": ["car", "dog"], "join_version": 3, "labels.car": "0", "labels.dog": "1"}
    start_run(str(tmp_path / "run"), RunManifest(fingerprint=old))
    with pytest.raises(ValueError, match=r"/run is of an earlier version, .* give another --run$"):
        plan_run(corpus, tmp_path / "run")
    with pytest.raises(ValueError, match=r"/run cannot be built on: .* are of version None, .* in another --run$"):
        find_origin(str(tmp_path / "run"), concept="car")


def test_what_belongs_to_one_concept_is_refused_for_several(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--adapter is for one concept"):
        plan_run(corpus, tmp_path / "run", "--adapter", "somewhere")
    with pytest.raises(ValueError, match="--input miniature is one corpus for each concept"):
        plan_run(Path("miniature"), tmp_path / "run")


def test_what_builds_on_labels_of_several_concepts_asks_which_one(corpus: Path, tmp_path: Path) -> None:
    label(plan_run(corpus, tmp_path / "run"))
    run = str(tmp_path / "run")
    with pytest.raises(ValueError, match=r"synthetic images are of one .*--concept car --distractor dog --run ANOTHER"):
        plan_training(run_url=run, spec=SegmenterSpec(synthetic=True))
    with pytest.raises(ValueError, match="holds labels of car, dog; name one of them with --concept"):
        open_labelled(run).of(None)
    with pytest.raises(ValueError, match=r"several concepts \(car, dog\); name one of them with --concept"):
        find_origin(run)
    with pytest.raises(ValueError, match="--concept bird is not the run's, which is car, dog"):
        find_origin(run, concept="bird")


def test_one_of_several_concepts_is_gone_on_with_by_its_own_m_prime_and_the_others_as_distractors(
    corpus: Path, tmp_path: Path
) -> None:
    plan = plan_run(corpus, tmp_path / "run", method="lora")
    start_run(plan.run.url, plan.manifest)
    for concept in BOTH:
        finish_concept(plan.run.url, concept, plan.run.fingerprint)
    origin = find_origin(plan.run.url, concept="dog", source=FakeSource())
    assert origin.spec == plan.spec.of("dog") and origin.spec.distractors == ("a photo of a car",)
    assert origin.weights == str(tmp_path / "run" / "concepts" / "dog" / "weights.safetensors")
    assert origin.several


def test_one_of_several_concepts_is_learned_from_its_own_labels(corpus: Path, tmp_path: Path) -> None:
    plan = plan_run(corpus, tmp_path / "run")
    label(plan, Halves(plan))
    spec = SegmenterSpec(crop=32, short_side=32, drop_flags=())
    task = plan_training(run_url=str(tmp_path / "run"), spec=spec, concept="dog")
    assert task.url.endswith("/run/segmenter-dog")
    counts = task.sources[0].counts
    assert sum(counts) == 5 and plan_training(run_url=str(tmp_path / "run"), spec=spec).sources[0].counts == counts
    rows = {row["key"]: png_to_array(row["mask"]) for row in rows_of(tmp_path / "run") if row["concept"] == "dog"}
    examples = {example.key: example.mask for example in read_task(task, Counter())}
    assert examples.keys() == rows.keys()
    for key, mask in examples.items():
        height, width = mask.shape
        assert mask.any() and np.array_equal(mask, resize_mask(rows[key], width, height))


def test_labels_of_one_of_several_concepts_are_read_alone(corpus: Path, tmp_path: Path) -> None:
    label(plan_run(corpus, tmp_path / "run"))
    labels = open_labelled(str(tmp_path / "run")).of("dog")
    assert [row["concept"] for row in labels.rows(["concept"])] == ["dog"] * 5


def test_receipts_of_versions_that_named_their_sources_are_still_read(corpus: Path, tmp_path: Path) -> None:
    (receipt,) = label(plan_run(corpus, tmp_path / "run", concepts=("car",)))
    assert Receipt.from_json(receipt.to_json().replace("{", '{"sources": {},', 1)) == receipt
