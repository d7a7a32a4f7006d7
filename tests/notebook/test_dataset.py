from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pyarrow.compute as pc
import pytest

import engine
from engine import open_labels
from schemas.label import LABEL_SCHEMA
from tests.segmenter.bright import label, write_corpus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    label(write_corpus(tmp_path / "corpus", shards=3, each=4), tmp_path / "run")
    return tmp_path / "run"


def test_labels_are_rows_to_be_filtered_and_chosen_from(run: Path) -> None:
    labels = open_labels(run)
    assert labels.count_rows() == 12
    assert labels.schema.equals(LABEL_SCHEMA) and labels.schema.metadata[b"maskmine.stage"] == b"refined"
    chosen = labels.to_table(columns=["shard", "key"], filter=pc.field("shard") == "000001.tar")
    assert chosen["key"].to_pylist() == ["000", "001", "002", "003"]


def test_a_file_without_a_receipt_is_left_out(run: Path) -> None:
    (run / "labels" / "000001.json").unlink()
    assert set(open_labels(run).to_table(columns=["shard"])["shard"].to_pylist()) == {"000000.tar", "000002.tar"}


def test_a_run_may_lie_in_a_store(run: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/run"
    fsspec.filesystem("memory").put(str(run), url, recursive=True)
    assert open_labels(url).to_table().equals(open_labels(run).to_table())


def test_a_stage_that_the_run_lacks_is_told(run: Path) -> None:
    assert open_labels(run, stage="refined").count_rows() == 12
    with pytest.raises(ValueError, match="holds no preliminary labels that are finished; run "):
        open_labels(run, stage="preliminary")
    with pytest.raises(ValueError, match="stage is 'labels'; give refined or preliminary"):
        open_labels(run, stage="labels")
    with pytest.raises(ValueError, match=r"there is no .*nowhere/run\.json"):
        open_labels(run / "nowhere")


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = (
        "import sys, engine\n"
        "assert {'Labeller', 'Segmenter', 'open_labels', 'ImageLabel'} <= set(dir(engine))\n"
        "assert not {'torch', 'ray', 'numpy', 'pyarrow'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_every_public_name_is_there() -> None:
    for name in engine.__all__:
        assert getattr(engine, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        engine.nonsense  # noqa: B018
