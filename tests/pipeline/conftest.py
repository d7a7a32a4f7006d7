"""One small Ray for all tests of the folder, and the faulty driver as a module whose classes travel to workers."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DRIVE = Path(__file__).with_name("drive.py")


@pytest.fixture(scope="session")
def drive() -> ModuleType:
    """`tests/pipeline/drive.py`, imported."""
    spec = importlib.util.spec_from_file_location("drive", DRIVE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["drive"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ray_address(drive: ModuleType) -> Iterator[str]:
    """Address of a Ray of our own with two CPUs; this process is connected to it."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(drive)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
