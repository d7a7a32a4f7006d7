"""Predictions from a probe with a clock of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.distillation.spec import DistillationSpec
from engine.labelling.spec import LabelSpec, SeveralSpec
from engine.run import forecast as module
from engine.run.fake import FakeSource
from engine.run.forecast import Forecast, Probe, make_forecast, probe, read_rate
from engine.run.plan import plan_labelling
from engine.run.source import ModelSource
from jobs.plan import main
from tests.corpus.hostile import make_corpus_tar
from tests.run.test_status import START, make_receipt

SPEC = LabelSpec(concept="car", prompt="a photo of a car")


@dataclass(frozen=True, kw_only=True)
class TimedSource(FakeSource):
    """Its labellers take two seconds an image of a clock that nothing else moves, half a second for a coarse mask."""

    clock: list[float]

    def build(self, spec, *, device, threads=None, weights=None):
        labeller = super().build(spec, device=device)

        def label(images, keys, *, stage=None):
            self.clock[0] += len(images) * (0.5 if stage == "preliminary" else 2)
            return labeller(images, keys)

        return label


@dataclass(frozen=True, kw_only=True)
class TimedModelSource(ModelSource):
    """The same with networks that are four times as fast in bfloat16, or compiled."""

    clock: list[float]

    def build(self, spec, *, device, threads=None, weights=()):
        labeller = TimedSource(clock=self.clock).build(spec, device=device)
        share = 0.25 if self.precision == "bfloat16" or self.compiled else 1

        def label(images, keys, *, stage=None):
            began = self.clock[0]
            labels = labeller(images, keys, stage=stage)
            self.clock[0] = began + share * (self.clock[0] - began)
            return labels

        return label


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for shard in range(12):
        (folder / f"{shard:06d}.tar").write_bytes(make_corpus_tar([shard * 10 + i for i in range(3)]))
    return folder


def plan_of(corpus: Path, run: Path, **changes):
    options = {"spec": SPEC, "source": TimedSource(clock=[0.0]), "distillation": DistillationSpec(), **changes}
    return plan_labelling(input_url=str(corpus), run_url=str(run), **options)


def test_a_probe_counts_the_images_of_a_corpus_from_some_of_its_shards(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(corpus, tmp_path / "run")
    found = probe(plan, images=9, device="cpu", now=lambda: plan.source.clock[0])
    assert (found.images, found.seconds, found.coarse) == (9, 2, 0.5)
    assert found.planned == pytest.approx(36, abs=2) and found.label_bytes > 0
    assert not (tmp_path / "run").exists()
    limited = plan_of(corpus, tmp_path / "run", limit=10)
    assert probe(limited, images=2, device="cpu", limit=10, now=lambda: 0.0).planned == 10


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("fast", "learns_in", "learning"),
    [
        ({"precision": "bfloat16"}, "float32", 0.5),
        ({"precision": "bfloat16"}, "bfloat16", 0.125),
        ({"compiled": True}, "float32", 0.5),
    ],
)
def test_the_fine_tuning_is_timed_in_its_own_precision_and_without_compiling(
    corpus: Path, tmp_path: Path, device: str, fast: dict[str, Any], learns_in: Any, learning: float
) -> None:
    source = TimedModelSource(model="miniature", clock=[0.0], **fast)
    plan = plan_of(corpus, tmp_path / "run", source=source, distillation=DistillationSpec(precision=learns_in))
    found = probe(plan, images=4, device=device, now=lambda: source.clock[0])
    assert (found.seconds, found.coarse, found.learning) == (0.5, 0.125, learning)


def test_shards_count_alike_where_the_store_tells_no_sizes(corpus: Path, tmp_path: Path) -> None:
    plan = plan_of(corpus, tmp_path / "run")
    silent = [replace(lease, shard=replace(lease.shard, size=0)) for lease in plan.remaining]
    found = probe(replace(plan, remaining=silent), images=9, device="cpu", now=lambda: 0.0)
    assert found.planned == pytest.approx(36, abs=2)


def test_a_corpus_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="can be read"):
        probe(plan_of(tmp_path / "corpus", tmp_path / "run"), images=4, device="cpu")


def test_the_arithmetic_of_a_forecast() -> None:
    forecast = Forecast(
        images=7200,
        seconds=2.0,
        workers=4,
        device="cuda",
        label_bytes=1000,
        sample=1000,
        coarse=0.72,
        fine_tuning=1800,
        price_per_hour=3.0,
    )
    assert forecast.images_per_second == 2
    assert forecast.hours == pytest.approx(1 + 0.05 + 0.5)
    assert forecast.device_hours == pytest.approx(6.2)
    assert forecast.price == pytest.approx(18.6)
    text = forecast.describe(now=datetime(2024, 2, 28, 23, 0))
    for words in ("2 images/s", "done at 2024-02-29 00:33", "7.2 MB", "18.60", "0.5 hours of fine-tuning"):
        assert words in text
    assert replace(forecast, price_per_hour=None).price is None


def test_the_job_writes_what_the_end_of_the_run_is_compared_with(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = TimedSource(clock=[0.0])
    monkeypatch.setattr(module, "probe", lambda *a, **k: probe(*a, **k, now=lambda: source.clock[0]))
    arguments = ["--concept", "car", "--input", corpus, "--run", tmp_path / "run", "--workers", 3, "--device", "cpu"]
    assert main([*map(str, arguments), "--price-per-hour", "2"], source=source) == 0
    out = capsys.readouterr().out
    assert "1.5 images/s (2 s an image, 3 worker(s) on cpu)" in out and "at 2 an hour" in out
    values = json.loads((tmp_path / "run" / "plan.json").read_text())
    # 300 steps of 16 examples, three passes each; a coarse mask of half a second takes 40 + 25 + 20 passes.
    assert values["fine_tuning"] == pytest.approx(3 * 300 * 16 * 0.5 / 85, rel=0.1)
    assert read_rate(plan_of(corpus, tmp_path / "run", source=source).run) == (1.5, 3)


def test_a_dry_run_stops_before_the_probe(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "probe", None)
    arguments = ["--concept", "car", "--input", str(corpus), "--run", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments, source=FakeSource()) == 0
    assert "in 12 leases" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_no_or_a_broken_prediction_is_none(corpus: Path, tmp_path: Path) -> None:
    run = plan_of(corpus, tmp_path).run
    assert read_rate(run) is None
    (tmp_path / "plan.json").write_text("{")
    assert read_rate(run) is None


def test_what_was_predicted_for_other_settings_or_another_stage_is_none(corpus: Path, tmp_path: Path) -> None:
    run = plan_of(corpus, tmp_path).run
    Forecast(images=9, seconds=2.0, workers=3, device="cpu", label_bytes=1000).write(run)
    assert read_rate(run) == (1.5, 3)
    assert read_rate(plan_of(corpus, tmp_path, spec=replace(SPEC, timesteps=49)).run) is None
    assert read_rate(plan_of(corpus, tmp_path, spec=SPEC.at("preliminary")).run) is None


def test_all_concepts_of_a_run_are_probed_and_fine_tuned(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    both = SeveralSpec(specs=(SPEC, replace(SPEC, concept="dog", prompt="a photo of a dog")))
    one, two = (plan_of(corpus, tmp_path / "run", spec=spec) for spec in (SPEC, both))
    monkeypatch.setattr(module, "labels_to_parquet", lambda rows, run: bytes(len(rows)))
    sizes = [probe(plan, images=9, device="cpu", now=lambda: 0.0).label_bytes for plan in (one, two)]
    assert sizes == [1, 2], "an image has a row of each"
    found = Probe(images=9, planned=36, seconds=2.0, coarse=0.5, learning=0.5, label_bytes=1)
    monkeypatch.setattr(module, "probe", lambda *a, **k: found)
    forecasts = [make_forecast(plan, images=9, device="cpu", workers=1) for plan in (one, two)]
    # As many steps again, but half a second is now 2 x 40 + 25 + 20 passes.
    assert forecasts[1].fine_tuning == pytest.approx(2 * forecasts[0].fine_tuning * 85 / 125)


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 5), ("cuda", 3)])
def test_a_cpu_decodes_instead_of_labelling_and_a_gpu_meanwhile(
    corpus: Path, tmp_path: Path, device: str, seconds: float
) -> None:
    plan = plan_of(corpus, tmp_path / "run")

    def now() -> float:
        plan.source.clock[0] += 1  # reading and encoding take a second, labelling its two and another
        return plan.source.clock[0]

    assert probe(plan, images=1, device=device, now=now).seconds == seconds


def test_images_that_are_done_count_towards_the_limit(corpus: Path, tmp_path: Path) -> None:
    plan = replace(plan_of(corpus, tmp_path / "run", limit=10), receipts={"x": make_receipt(3, 1, START)})
    assert make_forecast(plan, images=2, device="cpu", workers=1, limit=10).images == 7


@pytest.mark.parametrize("price", ["-3", "nan", "inf"])
def test_a_price_that_is_none_is_refused(price: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--concept", "car", "--price-per-hour", price])
    assert end.value.code == 2
    assert "--price-per-hour is" in capsys.readouterr().err
