from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from engine.pipeline import cluster
from engine.pipeline.trainer import count_workers


@pytest.mark.parametrize(
    ("resources", "leases", "wanted", "count", "ready", "device", "told"),
    [
        ({"CPU": 2.0}, 10, None, 10, 2, "cpu", "2 on CPUs, more if the cluster grows"),
        ({"CPU": 1.0}, 10, None, 1, 1, "cpu", "1 on CPUs"),
        ({"CPU": 64.0}, 10, None, 10, 10, "cpu", "10 on CPUs"),
        ({"CPU": 2.0}, 10, 5, 5, 5, "cpu", "5 on CPUs"),
        ({"CPU": 16.0, "GPU": 4.0}, 10, None, 10, 4, "cuda", "4 on GPUs, more if the cluster grows"),
        ({"CPU": 16.0, "GPU": 4.0}, 10, 8, 8, 4, "cuda", "4 on GPUs, more if the cluster grows"),
        ({"CPU": 16.0, "GPU": 4.0}, 2, None, 2, 2, "cuda", "2 on GPUs"),
        ({}, 10, None, 1, 1, "cpu", "1 on CPUs"),
    ],
)
def test_workers_fit_the_cluster_and_leave_room(
    monkeypatch: pytest.MonkeyPatch,
    resources: dict[str, float],
    leases: int,
    wanted: int | None,
    count: int,
    ready: int,
    device: str,
    told: str,
) -> None:
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: resources)
    workers = cluster.divide(leases=leases, wanted=wanted)
    assert (workers.count, workers.ready, workers.device) == (count, ready, device)
    assert workers.describe() == told
    cpus = resources.get("CPU", 1.0)
    assert 0 < workers.num_cpus * workers.ready <= max(cpus - cluster.SPARE_CPUS, cpus / 2)
    assert workers.num_gpus * workers.ready <= resources.get("GPU", 0)


@pytest.mark.parametrize(
    ("resources", "most", "count"),
    [
        ({"CPU": 16.0}, 3, 2),
        ({"CPU": 16.0}, 7, 4),
        ({"CPU": 2.0}, 64, 4),
        ({"CPU": 2.0}, None, 1),
        ({"CPU": 6.0}, None, 4),
        ({"CPU": 16.0, "GPU": 1.0}, 4, 1),
        ({"CPU": 16.0, "GPU": 4.0}, 2, 2),
        ({"CPU": 16.0, "GPU": 3.0}, None, 2),
    ],
)
def test_a_batch_is_shared_by_as_many_workers_as_can_and_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], most: int | None, count: int
) -> None:
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: resources)
    assert count_workers(32, most=most, spare=1) == count


def test_a_job_servers_address_is_refused_before_anybody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(cluster.ClusterError, match="ray job submit"):
        cluster.check_address()


def test_a_cluster_that_does_not_answer_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        cluster.check_address()
    with pytest.raises(cluster.ClusterError, match=address):
        cluster.check_address()


def test_a_cluster_that_is_all_head_is_asked_for_a_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[float] = []

    class Task:
        def remote(self) -> Task:
            return self

        def future(self) -> Task:
            return self

        def result(self) -> int:
            return 0

    def remote(*, num_cpus: float) -> Callable[[object], Task]:
        asked.append(num_cpus)
        return lambda function: Task()

    monkeypatch.setattr(cluster.ray, "remote", remote)
    for resources, expected in (({"CPU": 2.0}, []), ({"memory": 1.0}, [1])):
        monkeypatch.setattr(cluster.ray, "cluster_resources", lambda resources=resources: resources)
        cluster.await_node()
        assert asked == expected
    assert "waiting for the first" in caplog.text
