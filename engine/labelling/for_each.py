"""What is done for each image of a batch by itself: one after another, or in several threads where a GPU would wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

ForEach = Callable[..., Iterable[Any]]
"""`map`, or what does the same in threads: what it yields, and what is raised, comes in the order of the images."""
MOST = 8
"""Threads of a process, so that a machine of many CPUs does not hold as many images in its memory."""


def for_each_on(device: torch.device) -> ForEach:
    """`map` on CPUs, where a worker has but one; beside a GPU, `map` in threads.

    Pillow, numpy and scipy let go of Python's lock while they work on an image. What is mapped must leave torch's
    arithmetic alone: every thread would start threads of its own for it.
    """
    threads = count_threads() if device.type == "cuda" else 1
    return ThreadPoolExecutor(threads, thread_name_prefix="image").map if threads > 1 else map


def count_threads() -> int:
    """One for each CPU that this process may use, shared with the processes on the machine's other GPUs."""
    # macOS and Windows do not tell which CPUs a process may use.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # torch counts those that this process may see, which is one.
    gpus = sum(1 for _ in Path("/proc/driver/nvidia/gpus").glob("*"))
    return min(MOST, max(1, cpus // max(1, gpus)))
