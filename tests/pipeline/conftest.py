"""One small Ray for all tests of the folder, the faulty driver as a module whose classes travel to workers, one run."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.corpus.hostile import make_corpus_tar, write_hostile_corpus
from tests.pipeline.runs import EXECUTION, SETTINGS, Job

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


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small random models sd1 (predicts ε) and sd2 (predicts v)."""
    from tests.diffusion.models import make_model

    folder = tmp_path_factory.mktemp("models")
    for kind in ("sd1", "sd2"):
        make_model(kind).save(folder / kind)
    return folder


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list]]:
    """A corpus in which much is broken, and what is good and bad in it."""
    folder = tmp_path_factory.mktemp("hostile")
    return folder, write_hostile_corpus(folder)


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clean")
    (folder / "000100.tar").write_bytes(make_corpus_tar([100, 101, 102, 103]))
    return folder


@pytest.fixture(scope="session")
def job(drive: ModuleType, models: Path) -> Iterator[Job]:
    """Runs a job in this process, the labelling unless `main` is given, with a fault if one is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.run.plan.ConceptTask", drive.often(drive.ConceptTask))

        def run(
            run: Path,
            corpus: Path,
            *options: str,
            model: str = "sd1",
            concept: str = "car",
            fault: str = "",
            main: Callable[..., int] = drive.main,
        ) -> int:
            source = drive.FaultyModelSource(model=str(models / model), fault=fault, once=str(run) + ".once")
            arguments = ["--concept", concept, "--input", str(corpus), "--run", str(run)]
            return main([*arguments, *SETTINGS, *EXECUTION, *options], source=source)

        yield run


@pytest.fixture(scope="session")
def undisturbed(
    job: Job, ray_address: str, hostile: tuple[Path, dict[str, list]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run directory of a run to which nothing happened."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert job(run, hostile[0]) == 0
    return run


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes it an error to get so far that Ray is asked for anything."""

    def fail(*args: object, **options: object) -> None:
        raise AssertionError("Ray must not be needed")

    for name in ("run_plan", "make_concepts_of", "connect"):
        monkeypatch.setattr(f"engine.pipeline.driver.{name}", fail)
