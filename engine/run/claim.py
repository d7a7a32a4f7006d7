"""One driver at a time on a run directory: a claim that its holder renews, and that others take once it does not.

It works where nothing can be locked or renamed, and without comparing clocks: whoever finds a claim watches whether it
changes. The claim of a process that is known to be gone, because it was on this machine, is taken at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from engine import storage
from engine.run.directory import check_manifest, start_run
from schemas.run import RunManifest

logger = logging.getLogger(__name__)

FILE = ".driver.json"
RENEWED_EVERY = 10.0
"""Seconds."""
STALE_AFTER = 60.0
"""A claim that has not changed for so many seconds is nobody's any more."""
LOOK_EVERY = 1.0
LOST = signal.SIGUSR2
"""What interrupts the main thread when the claim is lost. Not SIGINT, which a process in the background may ignore."""


class ClaimError(ValueError):
    """Another driver is at the run directory; the message says which."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who works on a run directory.

    Attributes:
        machine: the same for processes that see each other's process ids.
        token: of this very claim.
        started: of the process, as the machine tells it; process ids are used again.
        beat: counts renewals.
    """

    session: str
    token: str
    host: str
    machine: str
    pid: int
    started: str
    since: str
    beat: int = 0

    @classmethod
    def here(cls, session: str) -> Holder:
        """This process."""
        return cls(
            session=session,
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_name_machine(),
            pid=os.getpid(),
            started=_find_process(os.getpid()) or "",
            since=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def gone(self) -> bool:
        """Whether this is a process of this machine that is no more."""
        return self.machine == _name_machine() and _find_process(self.pid) != self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@contextmanager
def occupy(url: str, manifest: RunManifest, session: str, *, option: str = "--run") -> Iterator[None]:
    """A run directory that is started, and its driver's own until the end.

    Args:
        option: by which the user names the directory.

    Raises:
        RunError: it has other settings, or cannot be written to.
        ClaimError, OSError: as `claim`.
    """
    start_run(url, manifest, option=option)
    with claim(url, session, option=option):
        # Of two drivers that found nothing there, the one that started it last may not be the one that holds it.
        check_manifest(url, manifest, option=option)
        yield


@contextmanager
def claim(run_url: str, session: str, *, option: str = "--run") -> Iterator[None]:
    """Keeps other drivers off a run directory; within a claim of the same session it does nothing.

    Args:
        option: by which the user names the directory.

    Raises:
        ClaimError: another driver holds it and lives, or has taken it because this one was out of reach.
        OSError: the run directory cannot be written to.
    """
    url = storage.join(run_url, FILE)
    own = Holder.here(session)
    if not _acquire(url, own, option):
        yield
        return
    renewal = _Renewal(url, own)
    with _interruptible():
        renewal.start()
        try:
            yield
        except KeyboardInterrupt:
            if renewal.lost is None:
                raise
        finally:
            renewal.end()
    if renewal.lost is not None:
        raise ClaimError(f"another driver ({renewal.lost}) has taken {_folder(url)}, because this one was out of reach")


def _acquire(url: str, own: Holder, option: str) -> bool:
    """Waits until the claim is ours; False where this session has it already."""
    watched, since = None, time.monotonic()
    while True:
        data = _look(url)
        if data is None:
            storage.create(_to_json(own), url)
            data = _look(url)  # not told by `create`: the answer of a store may get lost
        holder = _from_json(data)
        if holder is not None and holder.session == own.session:
            return holder.token == own.token
        if watched not in (None, data) and holder is not None:
            message = f"another driver ({holder}) is at {_folder(url)}: wait until it ends, or use another {option}"
            raise ClaimError(message)
        if (holder is not None and holder.gone()) or time.monotonic() - since > STALE_AFTER:
            logger.warning("taking over %s from a driver that is no more (%s)", _folder(url), holder)
            storage.remove(url)
            continue
        if watched is None and data is not None:
            watched, since = data, time.monotonic()
            logger.warning("a driver (%s) has been at %s; seeing whether it still is", holder, _folder(url))
        time.sleep(LOOK_EVERY)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes LOST a KeyboardInterrupt of the main thread, if that is where we are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(LOST, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(LOST, before)


class _Renewal(threading.Thread):
    """Renews a claim until the end. `lost` is who has taken it; the main thread is interrupted then."""

    def __init__(self, url: str, own: Holder) -> None:
        super().__init__(name="claim", daemon=True)
        self.lost: Holder | None = None
        self._url, self._own = url, own
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            # Whoever is out of reach for long is found to be taken over once it is back.
            with suppress(OSError):
                holder = _from_json(_look(self._url))
                if holder is not None and holder.token != self._own.token:
                    self.lost = holder
                    # A signal also ends a wait. Without our handler it would end the process.
                    if signal.getsignal(LOST) is signal.default_int_handler:
                        signal.pthread_kill(threading.main_thread().ident or 0, LOST)
                    return
                self._own = replace(self._own, beat=self._own.beat + 1)
                storage.atomic_put(_to_json(self._own), self._url)

    def end(self) -> None:
        """Gives the claim back, unless it is another's."""
        self._ended.set()
        self.join()
        with suppress(OSError):
            holder = _from_json(_look(self._url))
            if holder is not None and holder.token == self._own.token:
                storage.remove(self._url)


def _look(url: str) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except FileNotFoundError:
        return None


def _to_json(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=2, sort_keys=True).encode()


def _from_json(data: bytes | None) -> Holder | None:
    """None also for what is half written, which only a local file can be."""
    with suppress(ValueError, TypeError, RecursionError):
        return Holder(**json.loads(data or b""))
    return None


def _folder(url: str) -> str:
    return storage.redact(url.rpartition("/")[0])


def _name_machine() -> str:
    """Host, boot, and the container's own numbering of processes."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _find_process(pid: int) -> str | None:
    """When a process of this machine was started, in a unit of the machine's; None if there is none any more."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return ""
    return None if state in "ZX" else fields[18]
