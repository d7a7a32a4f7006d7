"""One shard of samples that begin from images of the corpus."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.corpus.decode import decode_image
from engine.run.directory import start_run
from engine.run.fake import FakeSynthesizer
from engine.run.harvest import LabellerBroken
from engine.run.origin import Origin
from engine.run.starts import ShardStarts
from engine.run.synthesis import plan_synthesis
from engine.run.synthetic_shard import synthesize_shard
from engine.synthesis.sample import Start, SyntheticSample
from engine.synthesis.spec import BATCH, SynthesisSpec
from tests.run.origins import SPEC, start_labelled


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return start_labelled(tmp_path)


def settings(**changes: object) -> SynthesisSpec:
    return SynthesisSpec(**{"backgrounds": 0.0, "shard_size": 6, **changes})  # type: ignore[arg-type]


def make(origin: Origin, output: Path, spec: SynthesisSpec) -> list[Path]:
    plan = plan_synthesis(origin, spec, output=str(output))
    start_run(plan.run.url, plan.manifest)
    for lease in plan.remaining:
        synthesize_shard(lease, FakeSynthesizer("fake", SPEC, spec), spec, plan.run, plan.starts)
    return sorted((output / "images").glob("*.tar"))


def test_samples_show_and_name_what_they_began_from(origin: Origin, tmp_path: Path) -> None:
    corpus = {}
    for path in (tmp_path / "corpus").glob("*.tar"):
        with tarfile.open(path) as tar:
            corpus |= {(path.name, m.name[:6]): tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")}  # type: ignore[union-attr]
    seen = 0
    for path in make(origin, tmp_path / "set", settings(count=14, backgrounds=0.2)):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name, data in members.items():
            if not name.endswith(".json"):
                continue
            facts = json.loads(data)
            assert (facts["start"] is None) == facts["background"]
            if facts["start"]:
                image = np.asarray(Image.open(io.BytesIO(members[name.replace(".json", ".png")])))
                began = decode_image(corpus[facts["start"]["shard"], facts["start"]["key"]])
                assert np.array_equal(image, 255 - began), "the fake makes negatives"
                seen += 1
    assert seen == 12


def test_the_next_batch_is_read_while_one_is_made(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, made = [threading.Event() for _ in range(3)], []
    usual = ShardStarts.__call__

    def begin(self: ShardStarts, indices: Sequence[int]) -> list[Start | None]:
        found = usual(self, indices)
        read[indices[0] // BATCH].set()
        return found

    class Waiting(FakeSynthesizer):
        def __call__(self, indices: Sequence[int], starts: Sequence[Start | None]) -> list[SyntheticSample]:
            made.append(indices[0] // BATCH)
            if made[-1] < 2:
                assert read[made[-1] + 1].wait(20), "the next batch waits for this one"
            return super().__call__(indices, starts)

    monkeypatch.setattr(ShardStarts, "__call__", begin)
    spec = settings(count=3 * BATCH, shard_size=3 * BATCH)
    plan = plan_synthesis(origin, spec, output=str(tmp_path / "set"))
    start_run(plan.run.url, plan.manifest)
    synthesize_shard(plan.leases[0], Waiting("fake", SPEC, spec), spec, plan.run, plan.starts)
    assert made == [0, 1, 2]


def test_a_label_file_that_is_gone_ends_the_work_in_one_sentence(origin: Origin, tmp_path: Path) -> None:
    plan = plan_synthesis(origin, settings(count=3))
    for path in (tmp_path / "run" / "labels").glob("*.parquet"):
        path.unlink()
    with pytest.raises(
        LabellerBroken, match=r"samples of 000000\.tar have nothing to begin from: there is no .*parquet"
    ):
        synthesize_shard(
            plan.leases[0], FakeSynthesizer("fake", SPEC, settings()), settings(), plan.run, starts=plan.starts
        )
