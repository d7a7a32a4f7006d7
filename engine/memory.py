"""How much memory is left; and when it has run out, how an error says so, and what can be given back."""

from __future__ import annotations

import gc
import re
import sys
from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "ALLOC_FAILED",
    # What libraries of a GPU say that got no room to work in. Where it is another trouble, smaller batches don't help.
    "unable to find an engine to execute this computation",
    "CUBLAS_STATUS_NOT_INITIALIZED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory, a device's or the machine's, did not suffice."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def available_memory() -> int | None:
    """Bytes that a process can have without swapping, no more than its container may hold; None if nobody says."""
    found = []
    with suppress(OSError):
        found += [1024 * int(kilobytes) for kilobytes in re.findall(r"MemAvailable: *(\d+) kB", _MEMINFO.read_text())]
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            found.append(int(path.read_text()))
    return min(found, default=None)


def free_memory() -> None:
    """Gives back what nothing needs any more, also of a GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
