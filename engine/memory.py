"""When the memory has run out: how an error says so, and what can be given back."""

from __future__ import annotations

import gc
import sys

_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory, a device's or the machine's, did not suffice."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def free_memory() -> None:
    """Gives back what nothing needs any more, also of a GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
