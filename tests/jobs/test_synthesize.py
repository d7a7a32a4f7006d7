from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from engine.labelling.spec import SeveralSpec
from engine.run.directory import start_run
from engine.run.fake import FakeSource, FakeSynthesizer
from engine.run.origin import find_origin
from engine.run.synthesis import plan_synthesis
from engine.run.synthetic_shard import synthesize_shard
from engine.synthesis.spec import SynthesisSpec
from jobs.synthesize import main
from schemas.run import RunManifest
from tests.jobs.parse import find_commands
from tests.run.origins import SPEC, start_origin


@pytest.fixture
def run(tmp_path: Path) -> Path:
    start_origin(tmp_path, labelled=True)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever these tests do must end before a cluster is reached."""

    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("engine.pipeline.driver.connect", connect)


def run_job(*arguments: object) -> int:
    return main([*map(str, arguments)], source=FakeSource())


def finish(run: Path, spec: SynthesisSpec, output: Path | None = None) -> None:
    """Makes the set here and now, as workers would."""
    plan = plan_synthesis(find_origin(str(run), source=FakeSource()), spec, output=output and str(output))
    start_run(plan.run.url, plan.manifest)
    for lease in plan.remaining:
        synthesize_shard(lease, FakeSynthesizer("fake", SPEC, spec), spec, plan.run, plan.starts)


def test_a_dry_run_prints_the_plan_and_writes_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job("--run", run, "--count", 100, "--backgrounds", 0.3, "--guidance", 2, "--dry-run") == 0
    out = capsys.readouterr().out
    assert "objects     70 of 'a photo of a car', guidance 2" in out
    assert "begun       from images of 2 labels in 1 leases" in out and "strength 0.6" in out
    assert "backgrounds 30 of 'a photo of a background'" in out
    assert f"output      {run}/synthetic (new)" in out
    assert not (run / "synthetic").exists()


def test_a_finished_set_says_so_without_ray_and_draws_its_sheet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run, SynthesisSpec(count=10))
    assert run_job("--run", run, "--count", 10) == 0
    assert "10, everything was done already" in capsys.readouterr().out
    assert (run / "synthetic" / "contact_sheet.png").exists()


def follow(said: str) -> str:
    """Runs the one command that a job has printed as the next; its name."""
    ((job, arguments),) = find_commands(said)
    assert import_module(f"jobs.{job}").main(arguments) == 0
    return job


@pytest.mark.parametrize("output", ["run/vivid", "run/synthetic", "elsewhere"])
@pytest.mark.parametrize("images", [None, "moved"])
def test_a_set_is_reported_and_exported_wherever_it_and_its_images_lie(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    output: str,
    images: str | None,
) -> None:
    finish(run, SynthesisSpec(count=10), tmp_path / output)
    os.truncate(tmp_path / output / "images" / "000000.tar", 65 << 20)  # a corpus's tar would be two leases
    monkeypatch.chdir(tmp_path)
    Path("review.csv").write_text("shard,key,decision\n")
    if images:
        (tmp_path / output / "images").rename(images)
    given = ["--input", images] if images else []
    assert import_module("jobs.report").main(["--run", output, *given]) == 0
    out = capsys.readouterr().out
    assert "labels      10, the worst 10" in out and "no picture" not in out
    assert follow(out) == "export"
    assert "exported    10 images with masks, 2 of them" in capsys.readouterr().out


def test_the_report_that_ends_a_synthesis_elsewhere_finds_its_images(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run, SynthesisSpec(count=10), run / "vivid")
    assert run_job("--run", run, "--count", 10, "--output", run / "vivid") == 0
    assert follow(capsys.readouterr().out) == "report"


def test_the_training_that_follows_is_told_where_the_corpus_lies_now(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run, SynthesisSpec(count=10))
    moved = (run.parent / "corpus").rename(run.parent / "moved")
    assert run_job("--run", run, "--count", 10, "--input", moved) == 0
    ((job, arguments),) = find_commands(capsys.readouterr().out)
    assert import_module(f"jobs.{job}").main([*arguments, "--dry-run"]) == 0


def test_the_images_of_a_set_that_are_gone_are_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run, SynthesisSpec(count=10))
    (run / "synthetic" / "images").rename(run / "moved")
    assert import_module("jobs.report").main(["--run", str(run / "synthetic")]) == 2
    assert "what the run made; name it with --input if it has moved" in capsys.readouterr().err


def test_other_settings_are_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(run, SynthesisSpec(count=10))
    assert run_job("--run", run, "--count", 10, "--seed", 4, "--steps", 9) == 2
    err = capsys.readouterr().err
    assert "synthesis.seed: 0 -> 4; synthesis.steps: 25 -> 9" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--run", "nowhere"], "run jobs/label.py"),
        (["--count", "0"], "error: --count is 0"),
        (["--backgrounds", "2"], "backgrounds is 2.0"),
        (["--strength", "0"], "--strength is 0.0; it must be above 0 and at most 1"),
        (["--input", "elsewhere"], "elsewhere"),
        (
            ["--input", "elsewhere", "--strength", "1"],
            "with --strength 1 and --backgrounds 0.2 none does; leave it out",
        ),
        (["--input", "elsewhere", "--backgrounds", "1"], "--backgrounds 1 none does"),
        (["--output", "pipe:ls"], "run a command"),
        (["--adapter", "x.safetensors"], "without --adapter"),
    ],
)
def test_wrong_usage_ends_in_one_sentence_and_code_2(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    monkeypatch.chdir(run)
    given = {"--run": str(run), **dict(zip(options[::2], options[1::2], strict=True))}
    assert run_job(*(part for pair in given.items() for part in pair)) == 2
    err = capsys.readouterr().err
    assert said in err and err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err


def test_without_labels_to_begin_from_noise_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_origin(tmp_path)
    assert run_job("--run", tmp_path / "run", "--dry-run") == 2
    error = capsys.readouterr().err
    assert "has no refined labels" in error and "or let samples begin from noise, with a strength of 1" in error
    assert run_job("--run", tmp_path / "run", "--strength", 1, "--dry-run") == 0
    assert "begun       from noise" in capsys.readouterr().out


def test_a_corpus_that_has_moved_is_named_with_input(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "corpus").rename(run.parent / "moved")
    assert run_job("--run", run, "--dry-run") == 2
    assert "--input if it has moved" in capsys.readouterr().err
    assert run_job("--run", run, "--input", run.parent / "moved", "--dry-run") == 0


def test_the_job_parses_and_plans_without_importing_ray_or_torch(run: Path) -> None:
    program = (
        "import sys; from jobs.synthesize import main; from engine.run.fake import FakeSource\n"
        f"code = main(['--run', {str(run)!r}, '--dry-run'], source=FakeSource())\n"
        "assert code == 0 and 'ray' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_a_run_of_several_concepts_is_refused_with_the_way_to_samples_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    specs = (replace(SPEC, concept="fire truck", prompt="a photo of a fire truck"), SPEC)
    (tmp_path / "run.json").write_text(RunManifest(fingerprint=SeveralSpec(specs=specs).fingerprint_fields()).to_json())
    assert run_job("--run", tmp_path) == 2
    error = capsys.readouterr().err
    assert "synthetic images are of one concept" in error and "several (fire truck, car)" in error
    assert "jobs/label.py --concept 'fire truck' --distractor car --run ANOTHER" in error
