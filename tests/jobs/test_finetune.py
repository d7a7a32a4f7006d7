"""How the fine-tuning alone ends, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import storage
from engine.run.directory import start_run
from engine.run.fake import FakeSource
from engine.run.plan import LabelPlan
from engine.run.training import make_receipt
from jobs.finetune import main
from tests.corpus.hostile import make_corpus_tar


@pytest.mark.parametrize(("allowed", "code"), [(0.01, 1), (0.2, 0)])
def test_more_of_the_sample_in_quarantine_than_allowed_is_told_by_the_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    allowed: float,
    code: int,
) -> None:
    (tmp_path / "000000.tar").write_bytes(make_corpus_tar([0, 1]))

    def make_concepts_of(plan: LabelPlan, **options: object) -> None:
        if not plan.concepts:
            return
        start_run(plan.run.url, plan.manifest)
        counts = {"used": 6, "absent": 2, "quarantined": 2}
        receipt = make_receipt(plan.run.fingerprint, counts, [1.0], name="w", data=b"", seconds={})
        storage.atomic_put(receipt.to_json().encode(), plan.concepts[0].url("receipt.json"))

    monkeypatch.setattr("engine.pipeline.driver.make_concepts_of", make_concepts_of)
    given = ["--concept", "car", "--input", str(tmp_path), "--run", str(tmp_path / "run")]
    for _ in ("made", "there already"):
        assert main([*given, "--max-failures", str(allowed)], source=FakeSource()) == code
        assert "quarantined 2" in capsys.readouterr().out


def test_a_run_without_a_name_is_not_the_default_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "000000.tar").write_bytes(make_corpus_tar([0, 1]))
    given = ["--concept", "car", "--input", str(tmp_path), "--run", "", "--dry-run"]
    assert main(given, source=FakeSource()) == 2
    assert "is empty" in capsys.readouterr().err
