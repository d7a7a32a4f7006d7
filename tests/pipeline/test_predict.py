"""A corpus segmented on Ray: the same files as in one process, whatever the number of workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.run.directory import start_run
from engine.run.predict import plan_prediction
from engine.run.shard import label_lease
from engine.segmenter.files import SegmenterConfig
from engine.segmenter.segmenter import Segmenter
from engine.segmenter.unet import build_unet
from jobs.predict import main
from tests.segmenter.bright import write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.usefixtures("ray_address")
def test_workers_write_the_files_that_one_process_writes_and_the_masks_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, model = write_corpus(tmp_path / "corpus"), tmp_path / "model"
    Segmenter(build_unet(2, seed=3), SegmenterConfig(concept="box", width=2, short_side=32)).save_pretrained(model)
    plan = plan_prediction(model=str(model), input_url=str(corpus), output_url=str(tmp_path / "alone"), batch_size=3)
    start_run(plan.run.url, plan.manifest)
    labeller = plan.source.build(plan.spec, device="cpu", threads=1)
    for lease in plan.leases:
        label_lease(lease, labeller, plan.run)

    out = tmp_path / "out"
    options = ["--model", str(model), "--input", str(corpus), "--output", str(out), "--batch-size", "3", "--png"]
    assert main([*options, "--workers", "2"]) == 0
    names = [f"{shard:06d}.parquet" for shard in range(3)]
    assert [path.name for path in sorted((out / "labels").glob("*.parquet"))] == names
    for name in names:
        assert (out / "labels" / name).read_bytes() == (tmp_path / "alone" / "labels" / name).read_bytes()
    assert len(list((out / "masks").rglob("*.png"))) == 12
    assert "masks: 12 in" in capsys.readouterr().out
    assert main(options) == 0
    assert "everything was done already" in capsys.readouterr().out
