"""The whole flow with small models: masks of a sample, fine-tuning on them, refined labels; and what may go wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from engine.distillation.notes import read_notes
from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import RefinementSpec
from schemas.label import LABEL_SCHEMA
from tests.pipeline.runs import EXECUTION, SETTINGS, STEPS, Job, copy_preliminary, products, rows, settings_of

DRIVE = Path(__file__).with_name("drive.py")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_good_image_gets_one_refined_label_and_no_bad_one_stops_it(
    undisturbed: Path, hostile: tuple[Path, dict[str, list]]
) -> None:
    assert sorted(rows(undisturbed)) == hostile[1]["good"]
    tables = [pq.read_table(path) for path in (undisturbed / "quarantine").glob("*.parquet")]
    bad = sorted((row["shard"], row["key"], row["reason"]) for table in tables for row in table.to_pylist())
    assert bad == hostile[1]["bad"]


def test_label_files_have_the_schema_and_say_how_they_were_made(undisturbed: Path) -> None:
    for path in (undisturbed / "labels").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert schema.remove_metadata().equals(LABEL_SCHEMA)
        assert schema.metadata[b"maskmine.stage"] == b"refined"
    found = rows(undisturbed).values()
    assert any(row["refined_separation"] is not None for row in found)
    assert all(0 <= row["quality"] <= 1 for row in found)


def test_the_concept_folder_holds_weights_a_receipt_and_pictures(undisturbed: Path, drive: ModuleType) -> None:
    folder = undisturbed / "concept"
    receipt = json.loads((folder / "receipt.json").read_text())
    data = (folder / "weights.safetensors").read_bytes()
    assert receipt["weights"]["bytes"] == len(data)
    assert receipt["steps"] == STEPS
    assert receipt["images"]["used"] >= 2
    assert read_notes(data)["concept"] == "car"
    pictures = sorted(path.name for path in (folder / "progress").iterdir())
    assert pictures == [f"{STEPS:06d}.png", "loss.png"]
    assert not [path for path in undisturbed.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]


def test_the_fingerprint_covers_all_settings_of_distillation_and_refinement(undisturbed: Path) -> None:
    found = settings_of(undisturbed)
    for group, spec in (("distillation", DistillationSpec), ("refinement", RefinementSpec)):
        assert {f"{group}.{field.name}" for field in dataclasses.fields(spec)} <= found.keys()
    assert found["distillation.rank"] == 2
    assert found["refinement.inpaint_steps"] == 2


@pytest.mark.usefixtures("no_ray")
def test_a_second_run_does_nothing_and_says_so(
    job: Job, undisturbed: Path, hostile: tuple[Path, dict[str, list]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    assert job(undisturbed, hostile[0]) == 0
    assert "everything was done already" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_ray")
def test_resuming_with_other_settings_is_refused_and_each_difference_is_named(
    job: Job, undisturbed: Path, hostile: tuple[Path, dict[str, list]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job(undisturbed, hostile[0], "--rank", "3", "--steps", "7", "--guidance", "-1", "--inpaint-steps", "3") == 2
    said = capsys.readouterr().err
    for difference in (
        "distillation.rank: 2 -> 3",
        f"distillation.steps: {STEPS} -> 7",
        "refinement.guidance: 0.0 -> -1.0",
        "refinement.inpaint_steps: 2 -> 3",
    ):
        assert difference in said
    assert job(undisturbed, hostile[0], "--method", "none") == 2
    assert "distillation.method: lora -> none" in capsys.readouterr().err


def test_without_fine_tuning_the_masks_are_others(
    job: Job,
    undisturbed: Path,
    hostile: tuple[Path, dict[str, list]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert job(run, hostile[0], "--method", "none") == 0
    assert "fine-tuning: skipped as asked for" in capsys.readouterr().out
    assert not (run / "concept").exists()
    ours, theirs = rows(run), rows(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(ours[key]["preliminary_mask"] == theirs[key]["preliminary_mask"] for key in ours)
    assert any(ours[key]["mask"] != theirs[key]["mask"] for key in ours)


def test_a_model_that_predicts_velocity_is_fine_tuned_alone_in_full_and_then_labels(
    job: Job, ray_address: str, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs.finetune import main as finetune

    run = tmp_path / "run"
    assert job(run, clean, "--method", "full", model="sd2", main=finetune) == 0
    assert not (run / "labels").exists()
    weights = (run / "concept" / "weights.safetensors").read_bytes()
    assert read_notes(weights)["method"] == "full"
    capsys.readouterr()
    assert job(run, clean, "--method", "full", model="sd2") == 0
    assert "fine-tuning: skipped, m′ is there" in capsys.readouterr().out
    assert (run / "concept" / "weights.safetensors").read_bytes() == weights
    assert sorted(rows(run)) == [("000100.tar", f"{number:06d}") for number in (100, 101, 102, 103)]
    assert settings_of(run)["distillation.method"] == "full"


def test_a_killed_trainer_and_a_killed_labeller_change_nothing(
    job: Job, undisturbed: Path, hostile: tuple[Path, dict[str, list]], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    copy_preliminary(undisturbed, run)
    assert job(run, hostile[0], fault="again:checkpoint.safetensors worker:000041") == 0
    assert (tmp_path / "run.once-again").exists() and (tmp_path / "run.once-worker").exists(), "they must have struck"
    assert products(run) == products(undisturbed)


def start_driver(run: Path, corpus: Path, model: Path, address: str, fault: str) -> subprocess.Popen[str]:
    """A driver of its own, whose worker will hang where `fault` says."""
    arguments = ["--concept", "car", "--input", str(corpus), "--run", str(run), *SETTINGS, *EXECUTION]
    faults = {"FAULT": fault, "FAULT_ONCE": f"{run}.{fault.rpartition('/')[2]}"}
    return subprocess.Popen(
        [sys.executable, str(DRIVE), *arguments],
        env={**os.environ, "RAY_ADDRESS": address, "MODEL": str(model), **faults},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(path: Path, driver: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)


def test_a_driver_stopped_while_fine_tuning_and_killed_while_labelling_resumes_to_the_same_files(
    job: Job,
    ray_address: str,
    models: Path,
    undisturbed: Path,
    hostile: tuple[Path, dict[str, list]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    copy_preliminary(undisturbed, run)

    driver = start_driver(run, hostile[0], models / "sd1", ray_address, "stall:training/checkpoint.safetensors")
    wait_for(tmp_path / "run.checkpoint.safetensors", driver)
    driver.send_signal(signal.SIGTERM)
    output, _ = driver.communicate(timeout=120)
    assert driver.returncode == 143, output
    assert "run the same command to resume" in output
    assert "Traceback" not in output
    assert not (run / "concept" / "receipt.json").exists()

    driver = start_driver(run, hostile[0], models / "sd1", ray_address, "stall:labels/000003.parquet!")
    wait_for(tmp_path / "run.000003.parquet!", driver)
    driver.kill()
    driver.communicate(timeout=120)
    assert 0 < len(list((run / "labels").glob("*.json"))) < 8, "it must have been killed midway"

    assert job(run, hostile[0]) == 0
    assert "fine-tuning: skipped, m′ is there" in capsys.readouterr().out
    assert products(run) == products(undisturbed)


def test_a_sample_without_a_usable_mask_ends_the_run_at_once_with_one_sentence(
    job: Job, ray_address: str, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert job(run, clean, "--presence-threshold", "1e9") == 2
    error = capsys.readouterr().err
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: nothing to learn 'car' from: there is no image to learn from (absent 4); ")
    assert not (run / "labels").exists()
