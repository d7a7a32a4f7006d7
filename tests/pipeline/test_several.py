"""The whole flow for several concepts with small models: one sample for all of them, m′ of each, labels in one pass."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.distillation.notes import read_notes
from engine.run.status import read_status
from tests.pipeline.runs import Job, copy_preliminary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONCEPTS = ("car", "human")
MORE = ["--concept", "human"]
"""Beside the car that every job of these tests is asked for."""


def rows(run: Path, folder: str = "labels") -> list[tuple[str, str]]:
    tables = [pq.read_table(path, columns=["key", "concept"]) for path in sorted((run / folder).glob("*.parquet"))]
    return [(row["key"], row["concept"]) for table in tables for row in table.to_pylist()]


def products(run: Path) -> dict[str, bytes]:
    paths = [*run.rglob("*.parquet"), *run.rglob("weights.safetensors")]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def street(job: Job, ray_address: str, clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two concepts to which nothing happened."""
    run = tmp_path_factory.mktemp("runs") / "street"
    assert job(run, clean, *MORE) == 0
    return run


def test_every_image_has_a_label_of_each_concept_which_has_an_m_prime_of_its_own(street: Path) -> None:
    expected = [(f"{number:06d}", concept) for number in (100, 101, 102, 103) for concept in CONCEPTS]
    assert rows(street) == rows(street, "preliminary") == expected
    weights = [(street / "concepts" / name / "weights.safetensors").read_bytes() for name in CONCEPTS]
    assert [read_notes(data)["concept"] for data in weights] == list(CONCEPTS) and weights[0] != weights[1]
    assert sorted(path.name for path in (street / "concepts").iterdir()) == list(CONCEPTS)
    assert not (street / "concept").exists()
    assert not [path for path in street.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_the_status_of_a_run_of_two_tells_of_both_fine_tunings_and_counts_images(street: Path) -> None:
    status = read_status(str(street))
    assert [(stage.name, stage.state, stage.images) for stage in status.stages] == [
        ("preliminary", "done", 4),
        ("refined", "done", 4),
    ]
    assert [(training.name, training.state) for training in status.trainings] == [
        ("car/concept", "done"),
        ("human/concept", "done"),
    ]


@pytest.mark.usefixtures("no_ray")
def test_a_second_run_of_two_does_nothing_and_says_so(
    job: Job, street: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = products(street)
    assert job(street, clean, *MORE) == 0
    assert "everything was done already" in capsys.readouterr().out
    assert products(street) == before


def test_a_trainer_and_a_labeller_of_two_that_are_killed_change_nothing(
    job: Job, street: Path, clean: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    copy_preliminary(street, run)
    assert job(run, clean, *MORE, fault="again:human/training/checkpoint.safetensors worker:000102") == 0
    assert (tmp_path / "run.once-again").exists() and (tmp_path / "run.once-worker").exists(), "they must have struck"
    assert products(run) == products(street)


def test_a_concept_that_nothing_can_be_learned_of_ends_the_run_and_what_is_there_stays(
    job: Job, street: Path, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert job(run, clean, *MORE, "--presence-threshold", "1e9") == 2
    assert "error: nothing to learn 'car' from: " in capsys.readouterr().err
    assert len(rows(run, "preliminary")) == 8 and not (run / "labels").exists()
