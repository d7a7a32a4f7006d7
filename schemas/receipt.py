"""The receipt of a lease: the one marker that its labels are complete and visible."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

RECEIPT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of one lease.

    Attributes:
        lease: the lease as JSON values.
        lease_id: what the lease's files are named after.
        stage: stage of the method that was run.
        fingerprint: hash of the run's settings.
        seen: samples and defects met; equals labelled + the sum of quarantined.
        labelled: images with rows in the label file, one for each concept.
        quarantined: rows of the quarantine file, by reason.
        seconds: time spent, by step (wall clock; steps overlap, so they don't add up to "total"). Those of "label.x"
            make "label" together.
        bytes: sizes by name: images read (encoded), files written.
        flags: labels by flag; one label may have several.
        ignored: files of the shard that are never read, by kind.
        finished: when, ISO 8601 with time zone; "" in receipts of versions that did not say.
        session: the start of the driver that it was written for.
        kept: how many of the labelled images were there before, from an earlier session.
        samples: that the shard has for the lease, whatever its limit: what the limit of a run is counted by; None in
            receipts of versions that did not say, and where nobody has looked.
    """

    lease: dict[str, Any]
    lease_id: str
    stage: str
    fingerprint: str
    seen: int
    labelled: int
    quarantined: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    flags: dict[str, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    finished: str = ""
    session: str = ""
    kept: int = 0
    samples: int | None = None
    schema_version: int = RECEIPT_SCHEMA_VERSION

    def __post_init__(self) -> None:
        assert self.seen == self.labelled + self.failed, "a receipt must account for every sample"

    @property
    def failed(self) -> int:
        """Number of quarantined samples."""
        return sum(self.quarantined.values())

    def to_json(self) -> str:
        """The receipt file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Receipt:
        """Reads a receipt file; a file that is no receipt raises ValueError."""
        try:
            values = json.loads(text)
            version = values["schema_version"]
            if version != RECEIPT_SCHEMA_VERSION:
                raise ValueError(f"its schema version is {version}, this program reads {RECEIPT_SCHEMA_VERSION}")
            values.pop("sources", None)  # of earlier versions, empty but where each concept had a run of its own
            receipt = cls(**values)
            shard = receipt.lease["shard"]
            if not isinstance(shard["name"], str) or not {type(shard["size"]), type(receipt.lease["parts"])} <= {int}:
                raise ValueError("it does not say of which shard")
            return receipt
        except (KeyError, TypeError, AttributeError, AssertionError, ValueError, RecursionError) as error:
            raise ValueError(f"not a receipt: {error}; delete the file to have its lease labelled again") from error
