"""The files of deploy/ against the schemas of those who read them: KubeRay's operator, Kubernetes, `ray up`."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from engine.run.options import PROFILES

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERAY = sorted((DEPLOY / "kuberay").glob("*.yaml"))
MACHINES = sorted((DEPLOY / "vm").glob("*.yaml"))
KUBERNETES = "1.34"
CRDS = "MASKMINE_KUBERAY_CRDS"


def load(path: Path) -> list[dict[str, Any]]:
    # What `kubectl` gets: without anchors, and with plain JSON values only.
    return [json.loads(json.dumps(document)) for document in yaml.safe_load_all(path.read_text())]


RESOURCES = [(path.name, resource) for path in KUBERAY for resource in load(path)]
OURS = [(name, resource) for name, resource in RESOURCES if resource["apiVersion"].startswith("ray.io/")]


def cluster_of(resource: dict[str, Any]) -> dict[str, Any]:
    return resource["spec"].get("rayClusterSpec", resource["spec"])


def pods_of(resource: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = cluster_of(resource)
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.fixture(scope="module")
def crds() -> dict[str, Any]:
    """KubeRay's schemas by kind."""
    folder = os.environ.get(CRDS)
    if not folder:
        pytest.skip(f"{CRDS} is not set: KubeRay's schemas are not at hand, so its manifests were NOT validated")
    found = {}
    for name in ("rayclusters", "rayjobs"):
        # Megabytes of YAML, for which the loader in Python takes a quarter of a minute.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        definition = yaml.load((Path(folder) / f"ray.io_{name}.yaml").read_text(), Loader=loader)["spec"]
        (version,) = [version for version in definition["versions"] if version["name"] == "v1"]
        found[definition["names"]["kind"]] = close(version["schema"]["openAPIV3Schema"])
    return found


def close(schema: Any) -> Any:
    """The schema with unknown fields refused: the API server drops them without a word."""
    if isinstance(schema, list):
        return [close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: close(value) for name, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if closed.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    return closed


def check(resource: dict[str, Any], schema: dict[str, Any]) -> None:
    body = {name: value for name, value in resource.items() if name != "metadata"}
    jsonschema.Draft7Validator(schema).validate(body)


@pytest.mark.parametrize(("name", "resource"), OURS, ids=[name for name, _ in OURS])
def test_kuberay_knows_every_field_of_its_manifests(name: str, resource: dict[str, Any], crds: dict[str, Any]) -> None:
    check(resource, crds[resource["kind"]])


def test_what_kuberay_does_not_know_is_found(crds: dict[str, Any]) -> None:
    (resource,) = load(DEPLOY / "kuberay" / "cluster.yaml")
    for path, value in ((["spec", "authOptions", "mode"], "tokn"), (["spec", "headGroupSpec", "replica"], 1)):
        broken = json.loads(json.dumps(resource))
        place = broken
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            check(broken, crds["RayCluster"])


@pytest.mark.parametrize(("name", "resource"), RESOURCES, ids=[f"{n}-{r['kind']}" for n, r in RESOURCES])
def test_kubernetes_knows_every_field_of_every_object_and_pod(name: str, resource: dict[str, Any]) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    if not resource["apiVersion"].startswith("ray.io/"):
        validate(resource, KUBERNETES, strict=True)
        return
    for template in pods_of(resource):
        metadata = {"name": "pod", **template.get("metadata", {})}
        validate({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}, KUBERNETES, True)


def test_what_kubernetes_does_not_know_is_found() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"containers": [{"name": "a"}]}}
    kubernetes.validate(pod, KUBERNETES, strict=True)
    pod["spec"]["tolerationz"] = []
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "resource"), OURS, ids=[name for name, _ in OURS])
def test_clusters_ask_for_a_token_and_hold_no_secret(name: str, resource: dict[str, Any]) -> None:
    assert cluster_of(resource)["authOptions"] == {"mode": "token", "secretName": "maskmine-ray-token"}
    for template in pods_of(resource):
        for container in (*template["spec"]["containers"], *template["spec"]["initContainers"]):
            for variable in container.get("env", []):
                secret = any(word in variable["name"] for word in ("TOKEN", "KEY", "PASSWORD", "SECRET"))
                assert not (secret and "value" in variable), variable["name"]


@pytest.mark.parametrize(("name", "resource"), OURS, ids=[name for name, _ in OURS])
def test_pods_run_without_rights_with_probes_and_memory_to_share(name: str, resource: dict[str, Any]) -> None:
    for template in pods_of(resource):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["restartPolicy"] == "Never", "what the second autoscaler wants"
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            assert {"/dev/shm", "/models"} == {mount["mountPath"] for mount in container["volumeMounts"]}
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]


@pytest.mark.parametrize(("name", "resource"), OURS, ids=[name for name, _ in OURS])
def test_workers_may_run_on_spot_machines_and_heads_may_not(name: str, resource: dict[str, Any]) -> None:
    head, *workers = pods_of(resource)
    required = head["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    (term,) = required["nodeSelectorTerms"]
    assert {expression["operator"] for expression in term["matchExpressions"]} == {"NotIn"}
    assert "tolerations" not in head["spec"]
    for worker in workers:
        assert {"cloud.google.com/gke-spot", "nvidia.com/gpu"} <= {t["key"] for t in worker["spec"]["tolerations"]}
        assert worker["spec"]["priorityClassName"] != head["spec"]["priorityClassName"]
    classes = {r["metadata"]["name"]: r["value"] for _, r in RESOURCES if r["kind"] == "PriorityClass"}
    assert classes[head["spec"]["priorityClassName"]] > classes[workers[0]["spec"]["priorityClassName"]]


@pytest.mark.parametrize(("name", "resource"), OURS, ids=[name for name, _ in OURS])
def test_clusters_scale_by_themselves_from_what_a_job_needs_to_start(name: str, resource: dict[str, Any]) -> None:
    cluster = cluster_of(resource)
    assert cluster["enableInTreeAutoscaling"] is True
    groups = cluster["workerGroupSpecs"]
    assert any(group["minReplicas"] for group in groups)
    for group in groups:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


@pytest.mark.parametrize("name", ["job-gpu.yaml", "job-cpu.yaml"])
def test_the_entrypoint_is_a_command_line_that_the_job_takes(name: str) -> None:
    import tyro

    from jobs.label import Label

    (resource,) = load(DEPLOY / "kuberay" / name)
    python, script, *arguments = shlex.split(resource["spec"]["entrypoint"])
    assert (python, script) == ("python", "jobs/label.py")
    options = tyro.cli(Label, args=arguments, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes))
    assert options.method.profile in PROFILES
    (fetch,) = pods_of(resource)[0]["spec"]["initContainers"]
    fetched = {variable["name"]: variable.get("value") for variable in fetch["env"]}
    assert (options.model.model, options.model.revision) == (fetched["MODEL"], fetched["REVISION"])


def test_the_version_of_ray_is_the_pinned_one() -> None:
    pins = (DEPLOY / "constraints.txt").read_text().splitlines()
    assert {f"ray=={cluster_of(resource)['rayVersion']}" for _, resource in OURS} <= set(pins)


@pytest.mark.parametrize("path", MACHINES, ids=[path.stem for path in MACHINES])
def test_ray_up_knows_every_field_of_its_files(path: Path) -> None:
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    (config,) = load(path)
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert any("RAY_AUTH_MODE=token" in option for option in config["docker"]["run_options"])
    assert "~/.ray/auth_token" in config["file_mounts"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "dokcer": {}}, schema)


@pytest.mark.parametrize("path", MACHINES, ids=[path.stem for path in MACHINES])
def test_ray_up_mounts_the_token_where_ray_looks_for_it_in_the_image(path: Path) -> None:
    from ray.autoscaler._private.docker import docker_start_cmds

    (config,) = load(path)
    image = (DEPLOY / "Dockerfile").read_text()
    # As Ray finds out where the image's home is; it asks no user database, and takes /root where nothing is said.
    (home,) = re.findall(r"^ENV .*\bHOME=(\S+)", image, re.MULTILINE)
    assert f"--uid 1000 {Path(home).name}" in image and home == f"/home/{Path(home).name}"
    mounts = {inside: inside for inside in config["file_mounts"]}
    options = config["docker"]["run_options"]
    command = docker_start_cmds("ubuntu", "image", mounts, "maskmine", options, "maskmine", home, "docker")
    assert f":{home}/.ray/auth_token" in command


@pytest.mark.parametrize("path", MACHINES, ids=[path.stem for path in MACHINES])
def test_machines_hand_their_gpus_to_the_container(path: Path) -> None:
    (config,) = load(path)
    options = shlex.split(" ".join(config["docker"]["run_options"]))
    assert ("--env", "NVIDIA_VISIBLE_DEVICES=all") in itertools.pairwise(options)
    folders = [option.partition(":")[0] for name, option in itertools.pairwise(options) if name == "--volume"]
    made = shlex.split(config["initialization_commands"][0])
    assert folders and set(folders) <= set(made), "Docker would make them root's"


def test_files_with_credentials_go_into_no_image_and_no_upload() -> None:
    uploaded, copied = DEPLOY.parent / ".gitignore", DEPLOY / "Dockerfile.dockerignore"
    assert {"*.env", "runs/"} <= set(uploaded.read_text().split())
    assert {"**/*.env", "runs"} <= set(copied.read_text().split())


def test_prometheus_looks_where_machines_keep_the_list_of_nodes() -> None:
    (jobs, _) = load(DEPLOY / "monitoring" / "prometheus.yml")[0]["scrape_configs"]
    files = jobs["file_sd_configs"][0]["files"]
    for path in MACHINES:
        (config,) = load(path)
        (outside,) = re.findall(r"--volume (\S+):/tmp/ray$", "\n".join(config["docker"]["run_options"]), re.MULTILINE)
        assert f"{outside}/prom_metrics_service_discovery.json" in files
