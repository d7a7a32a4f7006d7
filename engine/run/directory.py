"""A run directory: where a lease's files lie, and what is done."""

from __future__ import annotations

import logging
import platform
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from engine import storage
from engine.corpus.lease import Lease
from engine.run.attempts import ATTEMPTS, Attempt, mark_attempt
from schemas.receipt import Receipt
from schemas.run import RunManifest

logger = logging.getLogger(__name__)

STAGE_FOLDERS = {"preliminary": "preliminary", "refined": "labels"}
"""Folder of a run directory that holds the labels of a stage."""
QUARANTINE_FOLDERS = {"preliminary": "preliminary/quarantine", "refined": "quarantine"}
"""Folder of a run directory that says what a stage could not label."""
FIRST = "run jobs/label.py with this --run first"


class RunError(ValueError):
    """The run directory cannot be used as asked; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class LabelRun:
    """One driver's labelling of one run directory: all a worker needs besides its lease and labeller.

    Attributes:
        url: the run directory, absolute.
        session: names this start of the driver.
        batch_size: images per call of the labeller.
        retry: try again, once in this session, what earlier ones have put into quarantine.
        option: by which the user names the run directory.
    """

    url: str
    stage: str
    concept: str
    prompt: str
    fingerprint: str
    model: str
    revision: str | None
    seed: int
    session: str
    batch_size: int = 8
    retry: bool = False
    option: str = "--run"

    def labels_url(self, lease_id: str) -> str:
        return storage.join(self.url, STAGE_FOLDERS[self.stage], f"{lease_id}.parquet")

    def receipt_url(self, lease_id: str) -> str:
        return storage.join(self.url, STAGE_FOLDERS[self.stage], f"{lease_id}.json")

    def quarantine_url(self, lease_id: str) -> str:
        return storage.join(self.url, QUARANTINE_FOLDERS[self.stage], f"{lease_id}.parquet")

    def images_url(self, lease_id: str) -> str:
        """Of images that the work on the lease makes, if it does."""
        return storage.join(self.url, "images", f"{lease_id}.tar")

    def find_receipt(self, lease: Lease) -> Receipt | None:
        """The receipt of a lease that was finished once, whether or not it `settles` it; ValueError if unreadable."""
        try:
            return Receipt.from_json(storage.read_bytes(self.receipt_url(lease.id)).decode())
        except FileNotFoundError:
            return None

    def settles(self, receipt: Receipt, lease: Lease) -> bool:
        """Whether the receipt says that there is nothing to do for this session."""
        if not self.retry or receipt.session == self.session:
            return covers(receipt, lease)
        mended = receipt.failed > 0 or receipt.lease["shard"]["size"] != lease.shard.size
        return covers(receipt, lease) and not mended

    def attempt(self, lease_id: str) -> AbstractContextManager[Attempt]:
        """Marks in the run directory that a worker is at the lease (see `engine.run.attempts`)."""
        urls = (self.labels_url, self.receipt_url, self.quarantine_url, self.images_url)
        return mark_attempt(self.url, lease_id, self.session, [url(lease_id) for url in urls])


def new_session() -> str:
    """A name for one start of a driver."""
    return uuid.uuid4().hex[:12]


def covers(receipt: Receipt, lease: Lease) -> bool:
    """Whether the receipt says that all of the lease is done (one with a smaller limit does not)."""
    limit = receipt.lease.get("limit")
    return limit is None or (lease.limit is not None and limit >= lease.limit)


def read_receipts(url: str, stage: str) -> dict[str, Receipt]:
    """All receipts of a stage by lease id; RunError when one is unreadable."""
    folder = storage.join(url, STAGE_FOLDERS[stage])
    receipts = {}
    names = [name for name in storage.list_names(folder) if name.endswith(".json") and not name.startswith(".")]
    for name, data in storage.read_many(folder, names):
        try:
            receipt = Receipt.from_json(data.decode())
        except ValueError as error:
            raise RunError(f"{storage.redact(storage.join(folder, name))} is {error}") from error
        receipts[receipt.lease_id] = receipt
    return receipts


def subtract_receipts(leases: list[Lease], receipts: dict[str, Receipt], run: LabelRun) -> list[Lease]:
    """The leases that are still to be done.

    Raises:
        RunError: as `check_corpus`.
    """
    way_out = f"give each corpus its own {run.option}"
    if run.option == "--run":  # others, as of jobs/predict.py, have no quarantine to retry and no adapter
        way_out += (
            " (where this is the same shard and its bad images have been mended: label it with jobs/label.py "
            "--retry-quarantined; where images were added to a folder: --adapter with the run's concept folder spares "
            "the fine-tuning)"
        )
    check_corpus(leases, receipts, run.url, way_out=way_out, mended=run.retry)
    return [lease for lease in leases if lease.id not in receipts or not run.settles(receipts[lease.id], lease)]


def check_corpus(
    leases: list[Lease], receipts: dict[str, Receipt], url: str, *, way_out: str, mended: bool = False
) -> None:
    """Checks that receipts are of these leases.

    Args:
        way_out: what the user can do about labels of another corpus.
        mended: shards of which samples are in quarantine may have changed.

    Raises:
        RunError: the run directory holds labels of another corpus, whose shards are named alike.
    """
    planned = {lease.shard.name: lease for lease in leases}
    changed = [receipt for receipt in receipts.values() if _differs(receipt, planned)]
    excused = _find_mended(receipts, planned) if mended and changed else set()
    for receipt in changed:
        was, now = receipt.lease, planned[receipt.lease["shard"]["name"]]
        if now.shard.name in excused and was["parts"] == now.parts:
            continue
        raise RunError(
            f"{storage.redact(url)} holds labels of another {now.shard.name}: that one had "
            f"{was['shard']['size']} bytes in {was['parts']} part(s), this one has {now.shard.size} in "
            f"{now.parts}; {way_out}"
        )


def _differs(receipt: Receipt, planned: dict[str, Lease]) -> bool:
    was = receipt.lease
    now = planned.get(was["shard"]["name"])
    return now is not None and (was["shard"]["size"], was["parts"]) != (now.shard.size, now.parts)


def _find_mended(receipts: dict[str, Receipt], planned: dict[str, Lease]) -> set[str]:
    """Shards that may have changed: those with samples in quarantine, and those of which a part is mended already."""
    names = set()
    for receipt in receipts.values():
        name = receipt.lease["shard"]["name"]
        if name in planned and (receipt.failed or not _differs(receipt, planned)):
            names.add(name)
    return names


def make_manifest(fields: dict[str, Any], config: dict[str, Any] | None) -> RunManifest:
    """The manifest of something that begins now."""
    return RunManifest(
        fingerprint=fields,
        config=redact_config(config or {}),
        versions=_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _versions() -> dict[str, str]:
    """Of what shapes the results, for the reader of `run.json`."""
    versions = {"python": platform.python_version()}
    for name in ("maskmine", "torch", "diffusers", "transformers", "ray", "pyarrow", "pillow", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def check_manifest(url: str, manifest: RunManifest, *, option: str = "--run") -> bool:
    """Whether the run exists already, with the same fingerprint.

    Args:
        option: by which the user names the directory.

    Raises:
        RunError: it is of another job, or has another fingerprint (every difference is named), or `run.json` is
            unreadable.
    """
    path = storage.join(url, "run.json")
    try:
        found = RunManifest.from_json(storage.read_bytes(path).decode())
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunError(f"cannot read the run directory: {error}; use another {option}") from error
    except ValueError as error:
        raise RunError(f"{storage.redact(path)} is {error}; use another {option}") from error
    if found.kind != manifest.kind:
        raise RunError(f"{storage.redact(url)} holds {found.holds}, not {manifest.kind}; give another {option}")
    if differences := found.differences(manifest):
        named = f"{storage.redact(url)} was started with other settings ({'; '.join(differences)})"
        if any(line.partition(":")[0].endswith("version") for line in differences):
            raise RunError(f"{named}: no settings of this program give the same results; use another {option}")
        if any(line.startswith("synthesis.starts:") for line in differences):
            raise RunError(f"{named}: its samples began from other labels; move it away, or use another {option}")
        raise RunError(f"{named}: give the old settings to resume it, or another {option} to start anew")
    return True


def start_run(url: str, manifest: RunManifest, *, option: str = "--run") -> None:
    """Writes `run.json` unless it is there, and proves that the run directory can be written to.

    Args:
        option: by which the user names the directory.

    Raises:
        RunError: it cannot.
    """
    try:
        if check_manifest(url, manifest, option=option):
            probe = storage.join(url, ATTEMPTS, f"probe-{uuid.uuid4().hex}")
            storage.touch(probe)
            storage.remove(probe)
        else:
            storage.atomic_put(manifest.to_json().encode(), storage.join(url, "run.json"))
    except OSError as error:
        raise RunError(
            f"cannot write to the run directory {storage.redact(url)}: {error}; use another {option}"
        ) from error


def read_manifest(url: str, *, first: str = FIRST) -> RunManifest:
    """The manifest of a run that was started before.

    Args:
        first: what is to be done where there is none.

    Raises:
        RunError: there is none, or an unreadable one.
    """
    path = storage.join(url, "run.json")
    try:
        return RunManifest.from_json(storage.read_bytes(path).decode())
    except FileNotFoundError as error:
        raise RunError(f"there is no {storage.redact(path)}; {first}") from error
    except (OSError, ValueError) as error:
        raise RunError(f"{storage.redact(path)} cannot be read ({error}); name another --run") from error


def find_moved(run_url: str, input_url: str) -> str | None:
    """The corpus, if it is not where the run says that it was labelled; commands that follow then have to name it."""
    return None if find_corpus_url(read_manifest(run_url)) == input_url else input_url


def find_corpus_url(manifest: RunManifest) -> str | None:
    """The corpus that was labelled; None if the run does not say, or left out what must not be shown."""
    url = manifest.config.get("input_url")
    return url if isinstance(url, str) and "***" not in url else None


def find_input(name: str, concept: str) -> str:
    """The corpus that an --input names."""
    if name != "miniature":
        return name
    from engine.miniature import corpus_url

    return corpus_url(concept)


def redact_config(config: dict[str, Any]) -> dict[str, Any]:
    """The settings as `run.json` may show them: URLs without credentials."""
    return {name: _redact(value) for name, value in config.items()}


def _redact(value: Any) -> Any:
    if isinstance(value, dict):
        return redact_config(value)
    if isinstance(value, (list, tuple)):
        return [_redact(item) for item in value]
    return storage.redact(value) if isinstance(value, str) else value
