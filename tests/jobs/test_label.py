from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.names import default_run_url
from engine.run.plan import plan_labelling
from engine.run.shard import label_lease
from jobs.label import main
from tests.corpus.hostile import make_corpus_tar


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for shard in range(2):
        (folder / f"{shard:06d}.tar").write_bytes(make_corpus_tar([shard * 10, shard * 10 + 1]))
    return folder


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever these tests do must end before a cluster is reached."""

    def connect() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("engine.pipeline.driver.connect", connect)


def run_job(*arguments: object) -> int:
    return main(["--stage", "preliminary", *map(str, arguments)], source=FakeSource())


def finish(corpus: Path, run: Path) -> None:
    """Labels the corpus here and now, as workers would."""
    spec = LabelSpec(concept="car", prompt="a photo of a car", stage="preliminary")
    settings = DistillationSpec()
    plan = plan_labelling(
        spec=spec, source=FakeSource(), input_url=str(corpus), run_url=str(run), distillation=settings
    )
    start_run(plan.run.url, plan.manifest)
    for lease in plan.remaining:
        label_lease(lease, FakeLabeller("fake", spec), plan.run)


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_job("--concept", "car", "--input", corpus, "--run", run, "--dry-run") == 0
    out = capsys.readouterr().out
    assert f"run         {run} (new)" in out
    assert "2 (" in out and "in 2 leases" in out
    assert not run.exists()


def test_a_plan_of_one_lease_says_so(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "000001.tar").unlink()
    assert run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run", "--dry-run") == 0
    out = capsys.readouterr().out
    assert ", in 1 lease\n" in out and "done        0 leases with 0 images\nto do       1 lease\n" in out


def test_the_plan_says_what_the_bundled_model_knows(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--concept", "car", "--input", str(corpus), "--run", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments) == 0
    assert "model       miniature (of drawn scenes; for photographs give --model)\n" in capsys.readouterr().out
    assert main(arguments, source=FakeSource()) == 0
    assert "drawn" not in capsys.readouterr().out


def test_a_finished_run_says_so_without_ray(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(corpus, tmp_path / "run")
    assert run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert "4, everything was done already" in out
    assert f"glob.glob('{tmp_path}/run/preliminary/*.parquet')" in out


@pytest.mark.parametrize("name", ["run", "it's run [1]"])
def test_the_line_that_opens_the_labels_works(
    name: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(corpus, tmp_path / name)
    run_job("--concept", "car", "--input", corpus, "--run", tmp_path / name)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("to open"))
    statement, _, expression = line.removeprefix("to open").strip().partition("; ")
    names: dict[str, object] = {}
    exec(statement, names)
    assert len(eval(expression, names)) == 4


def test_other_settings_in_the_run_directory_are_refused_by_name(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(corpus, tmp_path / "run")
    assert run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run", "--seed", 7, "--draws", 2) == 2
    err = capsys.readouterr().err
    assert "draws: 1 -> 2; seed: 0 -> 7" in err
    assert len(err.splitlines()) == 1


def test_settings_that_do_not_change_labels_do_not_matter(corpus: Path, tmp_path: Path) -> None:
    finish(corpus, tmp_path / "run")
    options = ("--batch-size", 3, "--workers", 5, "--max-failures", 0.5)
    assert run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run", *options) == 0


def test_another_corpus_in_the_run_directory_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(corpus, tmp_path / "run")
    (corpus / "000001.tar").write_bytes(make_corpus_tar(range(20, 40)))
    assert run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run") == 2
    assert "labels of another 000001.tar" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--method none --steps 5 --rank 3", ["--steps, --rank do nothing with --method none"]),
        ("--method full --rank 64 --steps 5", ["--rank does nothing with --method full"]),
        ("--adapter X --steps 7 --method none", ["--method, --steps do nothing with --adapter"]),
        ("--steps 5 --rank 3", []),
        ("--method none", []),
    ],
)
def test_settings_of_a_fine_tuning_that_nobody_asks_for_are_told(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: str, said: list[str]
) -> None:
    run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run", "--dry-run", *options.split())
    assert caplog.messages == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--input", "nowhere"], "nowhere"),
        (["--input", "empty"], "No .tar and no .jpg"),
        (["--input", ""], "is empty"),
        (["--run", ""], "is empty"),
        (["--input", "pipe:ls"], "run a command"),
        (["--input", "nonsense://bucket/x"], "nonsense"),
        (["--run", "file.txt/run"], "file.txt"),
        (["--limit", "0"], "limit"),
        (["--attention-steps", "60"], "--attention-steps is 60"),
        (["--draws", "0"], "error: --draws is 0"),
        (["--difference-power", "0"], "--difference-power is 0"),
        (["--learning-rate", "0"], "--learning-rate is 0"),
        (["--train-batch-size", "0"], "--train-batch-size is 0; it must be at least 1"),
        (["--concept", " "], "error: the concept is empty"),
    ],
)
def test_wrong_usage_ends_in_one_sentence_and_code_2(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").touch()
    given = {"--concept": "car", "--input": str(corpus), "--run": str(tmp_path / "run")}
    given.update(zip(options[::2], options[1::2], strict=True))
    assert run_job(*(part for pair in given.items() for part in pair)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "options",
    [["--workers", "0"], ["--batch-size", "0"], ["--max-failures", "1.5"], ["--stage", "x"], ["--nonsense"]],
)
def test_what_cannot_be_parsed_ends_with_code_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_job(*(["--concept", "car", *options] if options else []))
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--status", "R", "--concept", "car"], "--status takes no other options but --json; leave out --concept"),
        (["--status=R", "--json", "--run=x", "--limit", "3"], "no other options but --json; leave out --limit, --run"),
        (["--json", "--concept", "car"], "--json goes with --status RUN, and no other options"),
    ],
)
def test_status_and_labelling_are_not_mixed(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.endswith(f"{said}\n")


@pytest.mark.parametrize("options", [["--json", "--help"], ["--status", "R", "--concept", "car", "-h"]])
def test_help_is_given_beside_anything(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 0 and "--json" in capsys.readouterr().out


def test_a_job_servers_address_is_explained(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    assert run_job("--concept", "car", "--input", corpus, "--run", tmp_path / "run") == 2
    assert "ray job submit" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_name_is_not_the_working_directory(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(corpus)
    assert main(["--concept", "car", "--input", str(corpus), "--run", str(tmp_path / "run"), "--model", ""]) == 2
    assert "the model's name is empty" in capsys.readouterr().err


def test_a_missing_model_and_a_pickled_one_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled = tmp_path / "pickled"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (pickled / part).mkdir(parents=True)
        (pickled / part / "diffusion_pytorch_model.bin").touch()
    (pickled / "model_index.json").write_text("{}")
    for model, said in ((tmp_path / "none", "no model folder"), (pickled, "pickled weights")):
        arguments = ["--concept", "car", "--input", corpus, "--run", tmp_path / "run", "--model", model]
        assert main([str(argument) for argument in arguments]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("unknown", [("--background-prompt", "a zebra"), ("--distractor", "zebra")])
def test_what_the_model_does_not_know_is_refused(
    unknown: tuple[str, str], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--concept", "car", "--input", corpus, "--run", tmp_path / "run", *unknown]
    assert main([str(argument) for argument in arguments]) == 2
    assert "zebra" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_default_run_directory_is_named_after_the_concept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKMINE_HOME", str(tmp_path))
    assert default_run_url("Fire Truck!") == f"{tmp_path}/runs/fire-truck"
    monkeypatch.delenv("MASKMINE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_run_url("car") == f"{tmp_path}/.maskmine/runs/car"


@pytest.mark.parametrize(
    ("concept", "name"),
    [("a" * 300, "a" * 100), ("é" * 60, "é" * 60), ("犬" * 300, "犬" * 85), ("a" + "犬" * 300, "a" + "犬" * 84)],
)
def test_the_default_run_directory_has_a_name_that_filesystems_take(
    concept: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKMINE_HOME", str(tmp_path))
    assert default_run_url(concept) == f"{tmp_path}/runs/{name}"
    Path(default_run_url(concept)).mkdir(parents=True)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run_job("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in ("concept", "prompt", "stage", "input", "run", "limit", "model", "revision", "seed", "timesteps"):
        assert f"--{option} " in text
    for option in ("attention-steps", "draws", "mixture-rule", "workers", "batch-size", "max-failures", "dry-run"):
        assert f"--{option}" in text


def test_no_concept_is_wrong_usage_that_says_how_to_name_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job() == 2
    assert "no concept is named; give --concept WORD" in capsys.readouterr().err


def test_the_job_parses_and_plans_without_importing_ray(corpus: Path, tmp_path: Path) -> None:
    import subprocess

    program = (
        "import sys; from jobs.label import main; from engine.run.fake import FakeSource\n"
        f"code = main(['--concept', 'car', '--input', {str(corpus)!r}, '--run', {str(tmp_path / 'run')!r}, "
        "'--dry-run'], source=FakeSource())\n"
        "assert code == 0 and 'ray' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
