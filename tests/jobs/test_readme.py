"""What the texts tell people to type is what the code understands."""

from __future__ import annotations

import re
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

from engine.labelling.label import FLAGS
from engine.miniature.corpus import write_corpus
from engine.miniature.scenes import draw_scene
from engine.run.concept import weights_url
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSynthesizer
from engine.run.labelling import make_plan
from engine.run.origin import find_origin
from engine.run.shard import label_lease
from engine.run.synthesis import plan_synthesis
from engine.run.synthetic_shard import synthesize_shard
from engine.run.training import make_receipt
from engine.run.what_next import AFTER
from engine.segmenter.files import SegmenterConfig
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.unet import build_unet
from engine.synthesis.spec import SynthesisSpec
from tests.jobs.parse import JOBS, ROOT, find_commands, find_python, parse

TEXTS = ("README.md", "deploy/README.md")
README = (ROOT / "README.md").read_text()
CLUSTER = ("label", "finetune", "distill", "synthesize", "train", "predict")
"""Jobs that need Ray: here they check all that they are given, and stop (`tests/pipeline` runs them)."""
ALONE = ("evaluate", "export", "plan", "report")


def check(commands: list[tuple[str, list[str]]]) -> None:
    wrong = []
    for job, arguments in commands:
        try:
            assert job in JOBS, f"there is no jobs/{job}.py"
            parse(job, arguments)
        except SystemExit as end:
            if end.code:
                wrong.append([job, *arguments])
    assert not wrong


@pytest.mark.parametrize("text", TEXTS)
def test_every_command_of_the_texts_is_understood(text: str) -> None:
    commands = find_commands((ROOT / text).read_text())
    assert len(commands) > 4
    check(commands)


def test_every_example_of_the_help_is_understood() -> None:
    for job in JOBS:
        commands = find_commands(import_module(f"jobs.{job}").DESCRIPTION)
        assert job in [name for name, _ in commands], f"the help of jobs/{job}.py has no example"
        check(commands)


def test_every_command_that_a_job_ends_with_is_understood() -> None:
    values = dict.fromkeys(("run", "model", "output"), "/some/place") | {"concept": "car"}
    for commands in AFTER.values():
        for command, _ in commands:
            job, _, options = command.format(**values).partition(" ")
            check(find_commands(f"python jobs/{job}.py {options}"))


def test_whoever_follows_the_readme_labels_photographs_with_a_model_and_has_the_tars_of_its_example() -> None:
    section = README[README.index("## Label your own images") :].partition("\n## ")[0]
    commands = find_commands(section)
    assert commands[0][0] == "label" and "--model" in commands[0][1]
    assert section.index("make setup") < section.index(". .venv/bin/activate")
    using = next(place for place, (_, arguments) in enumerate(commands) if any("tars/" in a for a in arguments))
    assert commands[using - 1][0] == "miniature" and "tars" in commands[using - 1][1]


def test_a_command_that_is_wrong_is_found() -> None:
    text = "`python jobs/label.py --concept car --limt 3` or\n    python jobs/label.py \\\n      --concept dog  # all\n"
    commands = find_commands(text)
    assert commands == [("label", ["--concept", "car", "--limt", "3"]), ("label", ["--concept", "dog"])]
    with pytest.raises(AssertionError, match="--limt"):
        check(commands)


@pytest.fixture
def bird(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with what the README's example has: tars, photos, the run that its first command makes."""
    monkeypatch.chdir(tmp_path)
    list(write_corpus(Path("tars"), count=4, seed=9, concept="bird", shard_size=1))
    Path("photos").mkdir()
    picture = Image.fromarray(draw_scene(9, 0, concept="bird").image)
    for path in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        picture.save(path)
    Path("review.csv").write_text("shard,key,decision\n")

    (job, arguments) = next(command for command in find_commands(README) if "runs/bird" in command[1])
    assert job == "label"
    plan = make_plan(parse(job, arguments))
    start_run(plan.run.url, plan.manifest)
    for lease in plan.leases:
        label_lease(lease, FakeLabeller("fake", plan.spec), plan.run)
    weights = Path(weights_url(plan.run.url))
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    receipt = make_receipt(plan.run.fingerprint, Counter(), [1.0], name=weights.name, data=b"weights", seconds={})
    (weights.parent / "receipt.json").write_text(receipt.to_json())
    synthesis = plan_synthesis(find_origin(plan.run.url), SynthesisSpec(count=4))
    start_run(synthesis.run.url, synthesis.manifest)
    synthesizer = FakeSynthesizer("fake", plan.spec, synthesis.settings)
    for lease in synthesis.remaining:
        synthesize_shard(lease, synthesizer, synthesis.settings, synthesis.run, synthesis.starts)
    config = SegmenterConfig(concept="bird", width=2, short_side=128)
    Segmenter(build_unet(2), config).save_pretrained("runs/bird/segmenter")


@pytest.mark.slow
@pytest.mark.usefixtures("bird")
def test_the_commands_of_the_example_go_as_far_as_a_cluster_or_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    of_example = [
        (job, arguments)
        for job, arguments in find_commands(README)
        if any("runs/bird" in argument for argument in arguments) and "--study" not in arguments
    ]
    assert {*CLUSTER, "evaluate", "export"} <= {job for job, _ in of_example} <= {*CLUSTER, *ALONE}
    for job, arguments in of_example:
        extra = ["--dry-run"] if job in CLUSTER and "--status" not in arguments else []
        code = import_module(f"jobs.{job}").main([*arguments, *extra])
        assert code == 0, f"{job} {arguments}: {capsys.readouterr().err}"


@pytest.mark.slow
@pytest.mark.usefixtures("bird")
def test_the_python_of_the_readme_runs() -> None:
    blocks = find_python(README)
    assert len(blocks) > 1
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_the_readme_tells_of_every_flag_that_a_label_can_have() -> None:
    table = README[README.index("| flag | meaning |") :].partition("\n\n")[0]
    told = {flag for line in table.splitlines()[2:] for flag in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert told == FLAGS
