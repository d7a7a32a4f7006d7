from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.label import LABEL_SCHEMA, label_schema
from schemas.quarantine import QUARANTINE_SCHEMA
from schemas.receipt import Receipt
from schemas.run import RunManifest


def make_receipt() -> Receipt:
    return Receipt(
        lease={"shard": {"name": "000000.tar", "size": 7}, "parts": 1},
        lease_id="000000",
        stage="preliminary",
        fingerprint="abc",
        seen=3,
        labelled=1,
        quarantined={"corrupt_image": 2},
        seconds={"label": 1.5},
        bytes={"read": 10},
    )


def test_a_receipt_survives_json() -> None:
    receipt = make_receipt()
    assert Receipt.from_json(receipt.to_json()) == receipt
    assert receipt.failed == 2


def test_a_receipt_accounts_for_every_sample() -> None:
    with pytest.raises(AssertionError):
        Receipt(lease={}, lease_id="x", stage="s", fingerprint="f", seen=2, labelled=1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', '{"schema_version": 1, "seen": 1}'])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a receipt"):
        Receipt.from_json(text)


def test_a_manifest_survives_json_and_names_each_difference() -> None:
    ours = RunManifest(fingerprint={"concept": "car", "seed": 0, "draws": 1}, config={"input": "x"}, created="now")
    theirs = RunManifest(fingerprint={"concept": "bird", "seed": 0, "rule": "midpoint"})
    assert RunManifest.from_json(ours.to_json()) == ours
    assert ours.differences(theirs) == [
        "concept: car -> bird",
        "draws: 1 -> (none)",
        "rule: (none) -> midpoint",
    ]
    assert ours.hash != theirs.hash


def test_the_fingerprint_ignores_config_versions_and_order() -> None:
    one = RunManifest(fingerprint={"a": 1, "b": 2}, config={"workers": 1}, versions={"torch": "1"}, created="x")
    two = RunManifest(fingerprint={"b": 2, "a": 1}, config={"workers": 8})
    assert one.hash == two.hash
    assert one.differences(two) == []


def test_an_edited_manifest_is_refused() -> None:
    values = json.loads(RunManifest(fingerprint={"seed": 0}).to_json())
    values["fingerprint"]["seed"] = 1
    with pytest.raises(ValueError, match="not a run manifest"):
        RunManifest.from_json(json.dumps(values))


def test_label_and_quarantine_schemas_survive_parquet() -> None:
    schema = label_schema(fingerprint="f", model="m", revision=None, seed=3, stage="preliminary", prompt="a p")
    for expected in (schema, QUARANTINE_SCHEMA):
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([], schema=expected), buffer)
        found = pq.read_table(buffer).schema
        assert found.equals(expected)
        assert found.metadata == expected.metadata
    assert schema.metadata[b"maskmine.seed"] == b"3"
    assert schema.names == LABEL_SCHEMA.names
