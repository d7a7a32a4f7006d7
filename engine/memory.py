"""How much memory is left; and when it has run out, how an error says so, and what can be given back."""

from __future__ import annotations

import gc
import re
import sys
from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Folder, limit, use, and what of it is but a cache in memory.stat; of cgroups version 2 and 1."""
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
    """Bytes that a process can have without swapping, no more than its container has left; None if nobody says."""
    found = []
    with suppress(OSError):
        found += [1024 * int(kilobytes) for kilobytes in re.findall(r"MemAvailable: *(\d+) kB", _MEMINFO.read_text())]
    for folder, limit, used, cached in _CGROUPS:
        with suppress(OSError, ValueError):  # "max" where there is no limit
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            cache = re.search(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
            found.append(max(0, left + (int(cache[1]) if cache else 0)))
    return min(found, default=None)


def free_memory() -> None:
    """Gives back what nothing needs any more, also of a GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
