"""The dashboard asks for metrics that exist, by labels that they have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.pipeline.metrics import METRICS

promql = pytest.importorskip("promql_parser")

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
EXPORTED = {f"ray_{name}{end}": name for name, metric in METRICS.items() for end in ENDINGS[metric.kind]}
OF_PROMETHEUS = {"le"}
OF_RAY = "ray_node_gpus_utilization"


def expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def parse(expression: str) -> Any:
    return promql.parse(expression.replace("$__rate_interval", "5m").replace("$stage", "refined"))


def walk(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        if (child := getattr(node, name, None)) is not None and not isinstance(child, (str, float)):
            yield from walk(child)
    for argument in getattr(node, "args", None) or []:
        yield from walk(argument)


def selectors(expression: str) -> list[Any]:
    return [node for node in walk(parse(expression)) if type(node).__name__ == "VectorSelector"]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_names_metrics_that_exist_by_labels_that_they_have(expression: str) -> None:
    found = selectors(expression)
    assert found
    tags: set[str] = set()
    for selector in found:
        if selector.name == OF_RAY:
            continue
        assert selector.name in EXPORTED
        own = set(METRICS[EXPORTED[selector.name]].tags)
        assert {matcher.name for matcher in selector.matchers.matchers} <= own
        tags |= own
    for node in walk(parse(expression)):
        modifier = getattr(node, "modifier", None)
        if type(node).__name__ == "AggregateExpr" and modifier is not None:
            assert set(modifier.labels) <= tags | OF_PROMETHEUS


def test_every_metric_is_shown_somewhere() -> None:
    shown = {EXPORTED.get(selector.name) for expression in expressions() for selector in selectors(expression)}
    assert shown >= METRICS.keys() - {"maskmine_busy_seconds"}, "for those who would rather count than look"


def test_rays_own_metric_is_one_of_rays() -> None:
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    assert OF_RAY.removeprefix("ray_") in METRICS_GAUGES


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((MONITORING / "grafana.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells


def test_prometheus_scrapes_the_port_that_the_manifests_name() -> None:
    jobs = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    (pods,) = [job for job in jobs if "kubernetes_sd_configs" in job]
    kept = [rule["regex"] for rule in pods["relabel_configs"] if rule.get("action") == "keep"]
    cluster = yaml.safe_load((MONITORING.parent / "kuberay" / "cluster.yaml").read_text())
    (container,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {port["name"] for port in container["ports"]} & set(kept) == {"metrics"}
