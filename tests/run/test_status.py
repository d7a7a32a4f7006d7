from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import storage
from engine.corpus.lease import Lease
from engine.run.directory import RunError, make_manifest, start_run
from engine.run.fake import FakeLabeller
from engine.run.heartbeat import Heartbeat, snapshot_url
from engine.run.plan import LabelPlan
from engine.run.segmenter import CHECKPOINTS
from engine.run.shard import label_lease
from engine.run.status import SILENT_AFTER, measure_rate, read_status
from engine.run.status_text import describe_status
from engine.run.training import make_receipt as make_training
from engine.segmenter.spec import SegmenterSpec
from jobs.label import main
from schemas.receipt import Receipt
from schemas.snapshot import Snapshot
from tests.corpus.hostile import write_hostile_corpus
from tests.run.origins import SPEC, start_origin

START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def make_snapshot(**values: object) -> Snapshot:
    known = {
        "stage": "refined",
        "leases": 2,
        "leases_done": 0,
        "planned": 40,
        "estimated": True,
        "done": 10,
        "quarantined": 0,
        "rate": 2.0,
        "workers": 3,
        "started": START.isoformat(),
        "updated": START.isoformat(),
    }
    return Snapshot(**{**known, **values})  # type: ignore[arg-type]


def make_receipt(seen: int, seconds: float, finished: datetime) -> Receipt:
    return Receipt(
        lease={"shard": {"name": "a.tar", "size": 1}, "parts": 1},
        lease_id=f"{finished.timestamp()}",
        stage="refined",
        fingerprint="f",
        seen=seen,
        labelled=seen,
        seconds={"total": seconds},
        finished=finished.isoformat(),
    )


def label(plan: LabelPlan, leases: list[Lease] | None = None) -> None:
    for lease in plan.remaining if leases is None else leases:
        label_lease(lease, FakeLabeller("fake", SPEC), plan.run)


@pytest.fixture
def hostile_run(tmp_path: Path) -> LabelPlan:
    """A run over a corpus in which much is broken, labelled, without a driver's snapshot."""
    write_hostile_corpus(tmp_path / "corpus")
    plan = start_origin(tmp_path)
    label(plan)
    return plan


def test_counts_are_those_of_the_files(hostile_run: LabelPlan) -> None:
    (stage,) = read_status(hostile_run.run.url).stages
    run = Path(hostile_run.run.url)
    rows = [row for path in (run / "labels").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    bad = [row for path in (run / "quarantine").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert stage.outcomes == {"labelled": len(rows), **Counter(row["reason"] for row in bad)}
    assert stage.flags == Counter(flag for row in rows for flag in row["flags"])
    assert stage.images == len(rows) + len(bad) and stage.leases_done == len(hostile_run.leases)
    assert stage.bytes["labels"] == sum(path.stat().st_size for path in (run / "labels").glob("*.parquet"))
    assert stage.ignored == {"md": 1, "pickle": 2, "pyd": 1}


def test_the_job_tells_the_status_without_a_concept_and_without_ray(hostile_run: LabelPlan) -> None:
    program = (
        "import sys; from jobs.label import main\n"
        f"code = main(['--status', {hostile_run.run.url!r}])\n"
        "sys.exit(code or ('ray' in sys.modules and 7))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "corrupt_image 2" in done.stdout and "'car'" in done.stdout


def test_json_tells_the_same(hostile_run: LabelPlan, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--status={hostile_run.run.url}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (stage,) = read_status(hostile_run.run.url).stages
    assert told["stages"][0]["outcomes"] == stage.outcomes
    assert told["last"] == stage.last > told["created"]


def test_a_folder_that_is_no_run_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status", str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err


def test_a_segmenter_is_no_run_that_has_a_status(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    folder = storage.join(plan.run.url, "segmenter")
    start_run(folder, make_manifest(SegmenterSpec().fingerprint_fields(), None))
    with pytest.raises(RunError, match=r"segmenter holds a segmenter of jobs/train\.py; name the run directory that"):
        read_status(folder)


def test_a_run_in_which_nothing_has_happened_says_so(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    assert "nothing yet" in describe_status(read_status(plan.run.url))


@pytest.mark.parametrize(
    ("age", "ended", "state"),
    [(10, False, "running"), (SILENT_AFTER + 1, False, "stopped"), (10, True, "stopped")],
)
def test_a_driver_that_is_silent_or_says_goodbye_has_stopped(
    tmp_path: Path, age: float, ended: bool, state: str
) -> None:
    plan = start_origin(tmp_path)
    snapshot = make_snapshot(ended=ended)
    storage.atomic_put(snapshot.to_json().encode(), snapshot_url(plan.run.url, "refined"))
    (stage,) = read_status(plan.run.url, now=START + timedelta(seconds=age)).stages
    assert stage.state == state


def test_leases_in_progress_count_while_the_driver_lives(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    storage.atomic_put(make_snapshot().to_json().encode(), snapshot_url(plan.run.url, "refined"))
    status = read_status(plan.run.url, now=START + timedelta(seconds=5))
    (stage,) = status.stages
    assert (stage.done, stage.images, stage.planned, stage.rate, stage.eta) == (10, 0, 40, 2.0, 15.0)
    text = describe_status(status, now=START + timedelta(seconds=5))
    assert "running · 10 of ~40 images (25%) · 2 images/s · ETA 15s · 0 of 2 leases · 3 workers" in text
    assert "5s ago" in text


def test_a_stage_whose_leases_all_have_receipts_is_done(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    label(plan)
    snapshot = make_snapshot(leases=len(plan.leases))
    storage.atomic_put(snapshot.to_json().encode(), snapshot_url(plan.run.url, "refined"))
    (stage,) = read_status(plan.run.url).stages
    assert (stage.state, stage.done, stage.planned, stage.eta) == ("done", 2, 2, None)


def test_a_stage_is_running_while_a_driver_does_leases_again_that_have_receipts(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    label(plan)
    snapshot = make_snapshot(leases=len(plan.leases))
    storage.atomic_put(snapshot.to_json().encode(), snapshot_url(plan.run.url, "refined"))
    (stage,) = read_status(plan.run.url, now=START + timedelta(seconds=5)).stages
    assert stage.state == "running"


def test_segmenters_of_some_concepts_are_told_of_beside_that_of_all(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    for name in ("segmenter", "segmenter-dog"):
        start_run(storage.join(plan.run.url, name), make_manifest({"segmenter.steps": 7}, None))
        storage.touch(storage.join(plan.run.url, name, CHECKPOINTS, "state.safetensors"))
    assert [training.name for training in read_status(plan.run.url).trainings] == ["segmenter", "segmenter-dog"]


def test_a_training_is_begun_as_soon_as_it_has_written_something_and_done_with_its_receipt(tmp_path: Path) -> None:
    plan = start_origin(tmp_path, method="lora")
    concept = Path(plan.run.url) / "concept"
    assert read_status(plan.run.url).trainings == []
    (concept / "training").mkdir(parents=True)
    (concept / "training" / "examples.safetensors").write_bytes(b"")
    (concept / "progress").mkdir()
    for step in (0, 200):
        (concept / "progress" / f"{step:06d}.png").write_bytes(b"")
    (begun,) = read_status(plan.run.url).trainings
    assert (begun.state, begun.step, begun.steps) == ("begun", 200, plan.manifest.fingerprint["distillation.steps"])
    assert "begun · at least step 200 of" in describe_status(read_status(plan.run.url))
    receipt = make_training("f", {"used": 9}, [0.5, 0.25], name="weights.safetensors", data=b"", seconds={})
    (concept / "receipt.json").write_text(receipt.to_json())
    text = describe_status(read_status(plan.run.url))
    assert "fine-tuning  done · 2 steps · loss 0.5000 -> 0.2500 · 9 images" in text


def test_how_long_a_segmenter_is_to_be_trained_is_told_while_it_is_begun(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    folder = Path(plan.run.url) / "segmenter"
    fields = {**SegmenterSpec(steps=77).fingerprint_fields(), "concept": "car"}
    start_run(str(folder), make_manifest(fields, None))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n' * 5)
    (folder / CHECKPOINTS).mkdir()
    (folder / CHECKPOINTS / "state.safetensors").write_bytes(b"")
    (begun,) = read_status(plan.run.url).trainings
    assert (begun.name, begun.state, begun.step, begun.steps) == ("segmenter", "begun", 5, 77)


def test_steps_of_the_labeller_stand_in_the_receipt(tmp_path: Path) -> None:
    class Timed(FakeLabeller):
        class stopwatch:
            take = staticmethod(lambda: {"attention": 0.5})

    plan = start_origin(tmp_path)
    (lease,) = plan.remaining
    receipt = label_lease(lease, Timed("fake", SPEC), plan.run)
    assert receipt.seconds["label.attention"] == 0.5
    assert "label 0" in (text := describe_status(read_status(plan.run.url))) and "(attention 0.25)" in text


def test_the_rate_counts_workers_at_once_and_leaves_out_pauses() -> None:
    two_at_once = [make_receipt(30, 60, START), make_receipt(30, 60, START)]
    after_a_pause = make_receipt(60, 60, START + timedelta(minutes=30))
    assert measure_rate(two_at_once) == pytest.approx(1.0)
    assert measure_rate([*two_at_once, after_a_pause]) == pytest.approx(1.0)
    of_yesterday = make_receipt(10_000, 60, START - timedelta(days=1))
    assert measure_rate([*two_at_once, of_yesterday]) == pytest.approx(1.0)
    assert measure_rate([replace(after_a_pause, finished="")]) is None, "receipts of older versions"


def test_receipts_of_older_versions_are_read() -> None:
    values = json.loads(make_receipt(1, 1, START).to_json())
    for name in ("flags", "ignored", "finished"):
        del values[name]
    assert Receipt.from_json(json.dumps(values)).finished == ""


def test_a_receipt_that_goes_while_it_is_read_is_no_error(
    hostile_run: LabelPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = storage.list_names
    monkeypatch.setattr(storage, "list_names", lambda url: [*names(url), "gone.json"])
    (stage,) = read_status(hostile_run.run.url).stages
    assert stage.leases_done == len(hostile_run.leases)


def test_a_heartbeat_is_written_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    def written() -> Snapshot:
        return Snapshot.from_json(storage.read_bytes(snapshot_url(str(tmp_path), "refined")))

    with Heartbeat(str(tmp_path), make_snapshot(), every=3600) as heart:
        assert (written().done, written().ended) == (10, False)
        heart.beat(done=11)
        assert written().done == 10, "too early"
    assert (written().done, written().ended) == (11, True)
    with Heartbeat(str(tmp_path), make_snapshot(), every=0) as heart:
        heart.beat(done=12)
        assert written().done == 12


def test_a_run_goes_on_where_no_heartbeat_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with Heartbeat(str(tmp_path / "file"), make_snapshot(), every=0) as heart:
        heart.beat(done=11)


def test_a_driver_that_has_stopped_tells_no_rate(tmp_path: Path) -> None:
    plan = start_origin(tmp_path)
    storage.atomic_put(make_snapshot().to_json().encode(), snapshot_url(plan.run.url, "refined"))
    (stage,) = read_status(plan.run.url, now=START + timedelta(seconds=SILENT_AFTER + 1)).stages
    assert (stage.state, stage.rate, stage.eta, stage.done) == ("stopped", None, None, 0)
