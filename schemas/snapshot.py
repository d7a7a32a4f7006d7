"""How far a driver saw the leases of a run get: what a run directory tells about work that has no receipt yet."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

SNAPSHOT_SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Written by the driver now and then, for people only: nothing depends on it.

    Attributes:
        stage: of the method that is run.
        leases, leases_done: all of the run's, and those with a receipt.
        planned: images of all leases, exact unless `estimated`; None while nothing is known.
        done, quarantined: images, those of leases in progress among them.
        rate: images per second since this driver's first lease was opened; None before there is one.
        workers: that the driver asked for.
        started, updated: ISO 8601 with time zone, by the clock of the driver's machine.
        ended: whether the driver has come to an end, whichever.
    """

    stage: str
    leases: int
    leases_done: int
    planned: int | None
    estimated: bool
    done: int
    quarantined: int
    rate: float | None
    workers: int
    started: str
    updated: str
    ended: bool = False
    schema_version: int = SNAPSHOT_SCHEMA_VERSION

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Snapshot:
        """Reads such a file; ValueError if it is something else."""
        try:
            values = json.loads(text)
            if values["schema_version"] != SNAPSHOT_SCHEMA_VERSION:
                raise ValueError(f"its schema version is {values['schema_version']}, not {SNAPSHOT_SCHEMA_VERSION}")
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no snapshot of a run: {error}") from error
