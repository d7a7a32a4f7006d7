"""Labelling from and to S3, over HTTP, through a proxy that breaks things."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import remote, storage
from engine.corpus import tar
from engine.corpus.catalogue import CorpusError, list_shards
from engine.corpus.indexes import IndexFolder
from engine.corpus.lease import Lease
from engine.corpus.reader import open_lease
from engine.corpus.sample import Sample
from engine.distillation.spec import DistillationSpec
from engine.run.claim import FILE, claim
from engine.run.directory import start_run
from engine.run.fake import FakeLabeller, FakeSource
from engine.run.plan import LabelPlan, plan_labelling
from engine.run.shard import label_lease
from tests.corpus.hostile import make_corpus_tar, make_tar
from tests.object_store import FAULTS, FaultyProxy, serve
from tests.run.test_shard import SPEC

pytest.importorskip("moto.server", reason="needs moto and flask, see the dev extra in pyproject.toml")
s3fs = pytest.importorskip("s3fs")

DRIVE = Path(__file__).parent / "pipeline" / "drive.py"
SHARDS, PER_SHARD = 4, 6


@pytest.fixture(scope="module")
def upstream() -> Iterator[int]:
    """Port of an S3 server without faults."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def store(upstream: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """The store itself, past the proxy; this process reaches it with what the environment says."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(remote, "WAITS", (0.05,) * 8)
    s3fs.S3FileSystem.clear_instance_cache()
    direct = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{upstream}", skip_instance_cache=True)
    if direct.exists("bucket"):
        direct.rm("bucket", recursive=True)
    direct.mkdir("bucket")
    yield direct
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def proxy(upstream: int, store: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The way to the store, as yet without faults."""
    with serve(FaultyProxy(upstream, rate=0)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture(scope="module")
def tars() -> dict[str, bytes]:
    return {f"{s:06d}.tar": make_corpus_tar(range(s * 100, s * 100 + PER_SHARD)) for s in range(SHARDS)}


def make_plan(corpus: str, run: str) -> LabelPlan:
    return plan_labelling(
        spec=SPEC, source=FakeSource(), input_url=corpus, run_url=run, distillation=DistillationSpec(), batch_size=2
    )


def label(corpus: str, run: str) -> LabelPlan:
    """Does all that a job does, without Ray."""
    plan = make_plan(corpus, run)
    start_run(plan.run.url, plan.manifest)
    for lease in plan.remaining:
        label_lease(lease, FakeLabeller("fake", SPEC), plan.run)
    return plan


class Watch(threading.Thread):
    """Reads again and again what is visible of a run: whatever is there must be whole."""

    def __init__(self, store: s3fs.S3FileSystem, run: str) -> None:
        super().__init__(daemon=True)
        self.store, self.run_path = store, run
        self.stopped = threading.Event()
        self.looks = 0
        self.partial: list[str] = []

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            self.look()

    def look(self) -> None:
        self.looks += 1
        self.store.invalidate_cache()
        for path in self.store.find(self.run_path):
            try:
                data = self.store.cat_file(path)
                if path.endswith(".json"):
                    json.loads(data)
                elif path.endswith(".parquet"):
                    pq.read_table(io.BytesIO(data))
            except FileNotFoundError:
                continue
            except ValueError as error:
                self.partial.append(f"{path}: {error}")


def put_corpus(store: s3fs.S3FileSystem, folder: Path, tars: dict[str, bytes]) -> None:
    """The same shards in a folder and in the bucket."""
    folder.mkdir()
    for name, data in tars.items():
        (folder / name).write_bytes(data)
        store.pipe_file(f"bucket/corpus/{name}", data)


@pytest.mark.slow
def test_a_run_through_a_hostile_network_yields_what_an_undisturbed_local_one_does(
    store: s3fs.S3FileSystem, proxy: FaultyProxy, tars: dict[str, bytes], tmp_path: Path
) -> None:
    put_corpus(store, tmp_path / "corpus", tars)
    label(str(tmp_path / "corpus"), str(tmp_path / "run"))
    proxy.rate = 0.3
    watch = Watch(store, "bucket/run")
    watch.start()
    plan = label("s3://bucket/corpus", "s3://bucket/run")
    watch.stopped.set()
    watch.join()
    watch.look()
    assert watch.partial == [] and watch.looks > 1
    assert set(proxy.struck) == set(FAULTS), "every fault must have struck"
    local = {str(path.relative_to(tmp_path / "run")): path.read_bytes() for path in tmp_path.rglob("run/**/*.parquet")}
    found = {path.removeprefix("bucket/run/"): store.cat_file(path) for path in store.find("bucket/run")}
    assert {name: data for name, data in found.items() if name.endswith(".parquet")} == local
    receipts = [json.loads(found[f"preliminary/{lease.id}.json"]) for lease in plan.leases]
    assert sum(receipt["labelled"] for receipt in receipts) == SHARDS * PER_SHARD
    assert make_plan("s3://bucket/corpus", "s3://bucket/run").remaining == []


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_a_job_on_ray_survives_the_network_and_the_death_of_its_driver(
    store: s3fs.S3FileSystem, proxy: FaultyProxy, tars: dict[str, bytes], tmp_path: Path
) -> None:
    put_corpus(store, tmp_path / "corpus", tars)
    label(str(tmp_path / "corpus"), str(tmp_path / "run"))
    proxy.rate = 0.1
    command = [sys.executable, str(DRIVE), "--concept", "car", "--stage", "preliminary", "--batch-size", "2"]
    command += ["--input", "s3://bucket/corpus", "--run", "s3://bucket/run", "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

    def start(delay: str) -> subprocess.Popen[str]:
        out = subprocess.PIPE
        return subprocess.Popen(
            command, env={**environment, "DELAY": delay}, stdout=out, stderr=subprocess.STDOUT, text=True
        )

    def receipts() -> list[str]:
        store.invalidate_cache()
        return store.glob("bucket/run/preliminary/*.json")

    driver = start("1")
    while not receipts():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.2)
    driver.kill()
    driver.communicate()
    assert len(receipts()) < SHARDS, "it must have been killed midway"
    driver = start("0")
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, output
    assert len(receipts()) == SHARDS
    local = {path.name: pq.read_table(path).to_pylist() for path in tmp_path.rglob("run/preliminary/*.parquet")}
    found = {
        path.rpartition("/")[2]: pq.read_table(io.BytesIO(store.cat_file(path))).to_pylist()
        for path in store.glob("bucket/run/preliminary/*.parquet")
    }
    assert found == local
    assert not store.exists(f"bucket/run/{FILE}")


def test_a_store_that_refuses_for_a_while_is_waited_for(
    store: s3fs.S3FileSystem, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(remote.S3_OPTIONS, "config_kwargs", {"retries": {"mode": "standard", "max_attempts": 1}})
    proxy.faults, proxy.rate, proxy.most = ("error",), 1, 5
    storage.atomic_put(b"data", "s3://bucket/x")
    assert store.cat_file("bucket/x") == b"data"
    assert proxy.struck["error"] == 5


def test_what_will_not_pass_is_an_error_at_once(store: s3fs.S3FileSystem, proxy: FaultyProxy) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("s3://bucket/none")
    with pytest.raises(FileNotFoundError):
        storage.atomic_put(b"data", "s3://no-such-bucket/x")
    with pytest.raises(CorpusError, match="does not exist"):
        list_shards("s3://bucket/none")
    assert proxy.requests["PUT"] == 1


def test_a_large_shard_is_read_by_ranges(
    store: s3fs.S3FileSystem, proxy: FaultyProxy, tars: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_WHOLE", 0)
    monkeypatch.setattr(remote, "_PIECE", 4096)
    store.pipe_file("bucket/corpus/000000.tar", tars["000000.tar"])
    plan = make_plan("s3://bucket/corpus", "s3://bucket/run")
    with open_lease(plan.leases[0]) as reader:
        assert sum(isinstance(item, Sample) for item in reader) == PER_SHARD
    assert proxy.ranges > 5


def test_the_index_of_a_large_shard_lies_in_the_store_until_the_shard_changes(
    store: s3fs.S3FileSystem, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_WHOLE", 0)
    monkeypatch.setattr(remote, "_PIECE", 4096)
    folder = IndexFolder(url="s3://bucket/run/.indexes")

    def read(color: str) -> tuple[int, int]:
        """How many samples a process finds that has opened no shard before, and the ranges that it asks for."""
        s3fs.S3FileSystem.clear_instance_cache()
        tar._last_index.clear()
        (shard,) = list_shards("s3://bucket/corpus")
        before = proxy.ranges
        with open_lease(Lease(shard=shard), indexes=folder) as reader:
            assert {key[0] for key in reader.samples().values()} == {color[0]}
            return len(reader.samples()), proxy.ranges - before

    for color in ("red", "blue"):  # of one length, so that the tars differ in their marks alone
        members = [(f"{color[0]}{number:03d}.jpg", b"x" * 1000) for number in range(40)]
        store.pipe_file("bucket/corpus/a.tar", make_tar(members))
        (found, ranges), again = read(color), read(color)
        assert ranges > 5 and again == (found, 0) == (40, 0)
    assert [path.rpartition("/")[2] for path in store.find("bucket/run")] == ["a.json.gz"]


def test_a_run_directory_in_a_store_has_one_driver_at_a_time(store: s3fs.S3FileSystem, proxy: FaultyProxy) -> None:
    with claim("s3://bucket/run", "one"):
        storage.create(b"another", f"s3://bucket/run/{FILE}")
        assert json.loads(store.cat_file(f"bucket/run/{FILE}"))["session"] == "one"
    assert store.find("bucket/run") == []
    proxy.faults, proxy.rate, proxy.most = ("lost",), 1, 1
    storage.create(b"one", "s3://bucket/run/x")
    storage.create(b"two", "s3://bucket/run/x")
    assert proxy.struck["lost"] == 1
    assert store.cat_file("bucket/run/x") == b"one", "that it was there already is its own doing"


def test_missing_credentials_are_named_with_the_way_out(
    store: s3fs.S3FileSystem, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OSError, match=r"Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        storage.read_bytes("s3://bucket/x")


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for scheme in ("s3", "s3a"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(storage.StorageError, match=r"pip install -e '\.\[s3\]'"):
        storage.open_filesystem("s3://bucket/x")
