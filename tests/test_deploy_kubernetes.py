"""Manifests for Kubernetes: valid, in agreement with each other, and with the server that they start.

The resources of KEDA, KServe, the Gateway API and the Prometheus operator have no schema here: only their references are
checked.
"""

import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from fastapi.testclient import TestClient

from model.checkpoints.convert import main as convert
from serve.backends.engine_backend import _HANGING_SECONDS
from serve.settings.reading import read_settings
from serve.settings.server import Settings
from serve.triton.settings import TritonSettings
from tests.ended import Ended
from tests.promql import scrape_of, unknown
from tests.serve_process import ServeProcess
from tests.thread_backend import ThreadBackend

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
WITHOUT_SCHEMA = {"ScaledObject", "InferenceService", "PodMonitor", "HTTPRoute"}
CLOSING_SECONDS = 5  # `timeout_graceful_shutdown` of serve.server
Manifest = dict[str, Any]


def manifests() -> Iterator[tuple[str, Manifest]]:
    """Every manifest, with its file's path in the folder."""
    for path in sorted(FOLDER.rglob("*.yaml")):
        if not path.name.endswith(".values.yaml"):
            for manifest in yaml.safe_load_all(path.read_text()):
                yield str(path.relative_to(FOLDER)), manifest


ALL = list(manifests())
DEPLOYMENT = next(one for file, one in ALL if file == "deployment.yaml")
SERVERS = [one for _, one in ALL if one["kind"] in ("Deployment", "InferenceService")]
in_each_server = pytest.mark.parametrize("manifest", SERVERS, ids=["deployment", "kserve", "triton"])


def pod_of(manifest: Manifest) -> Manifest:
    """Specification of the pods that a manifest starts."""
    spec: Manifest = manifest["spec"]
    return spec["predictor"] if manifest["kind"] == "InferenceService" else spec["template"]["spec"]  # type: ignore[no-any-return]


def labels_of(manifest: Manifest) -> dict[str, str]:
    """Labels of the pods that a manifest starts."""
    spec = manifest["spec"]
    owner = spec["predictor"] if manifest["kind"] == "InferenceService" else spec["template"]["metadata"]
    return dict(owner["labels"])


def named(kind: str) -> Manifest:
    return next(one for _, one in ALL if one["kind"] == kind)


@pytest.mark.parametrize("manifest", [one for _, one in ALL], ids=[file for file, _ in ALL])
def test_a_manifest_is_valid(manifest: Manifest) -> None:
    """Fields and types as Kubernetes's schemas say, and no other fields."""
    if manifest["kind"] in WITHOUT_SCHEMA:
        with pytest.raises(kubernetes_validate.SchemaNotFoundError):
            kubernetes_validate.validate(manifest, "1.37", strict=True)
    else:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_selectors_and_targets_find_the_pods() -> None:
    for one in SERVERS:
        labels = labels_of(one).items()
        assert named("Service")["spec"]["selector"].items() <= labels
        for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            assert named(kind)["spec"][field]["matchLabels"].items() <= labels
        monitor = named("PodMonitor")["spec"]
        assert monitor["selector"]["matchLabels"].items() <= labels
        assert dict(labels)[monitor["jobLabel"]] == "focusdiff"  # the alerts' job
        if one["kind"] == "Deployment":
            assert one["spec"]["selector"]["matchLabels"].items() <= labels
            assert one["metadata"]["name"] == DEPLOYMENT["metadata"]["name"]
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        assert named(kind)["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]
    assert not named("Service")["spec"]["selector"].items() <= labels_of(named("Job")).items()
    (backend,) = named("HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    service = named("Service")
    assert (backend["name"], backend["port"]) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])


@in_each_server
def test_ports_volumes_and_times_of_a_pod_agree(manifest: Manifest) -> None:
    """Probes and Service find the port, the Secret is the documented one, and no drain is cut short."""
    pod = pod_of(manifest)
    (front,) = pod["containers"]
    (port,) = front["ports"]
    flags = {name: value for name, _, value in (argument.partition("=") for argument in front["args"])}
    assert int(flags["--port"]) == port["containerPort"]
    assert named("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert named("NetworkPolicy")["spec"]["ingress"][0]["ports"][0]["port"] == port["name"]
    assert named("PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert front[probe]["httpGet"]["port"] == port["name"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    containers = [front, *pod.get("initContainers", [])]
    mounts = {mount["name"]: mount["mountPath"] for mount in front["volumeMounts"]}
    assert {mount["name"] for one in containers for mount in one["volumeMounts"]} == set(volumes)
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == named("PersistentVolumeClaim")["metadata"]["name"]
    documented = f"kubectl create secret generic {volumes['keys']['secret']['secretName']} --from-file=keys="
    assert documented in (ROOT / "docs" / "deploy.md").read_text()
    assert flags["--api-keys-file"] == f"{mounts['keys']}/keys"
    longest = front["lifecycle"]["preStop"]["sleep"]["seconds"] + int(flags["--drain-seconds"])
    assert pod["terminationGracePeriodSeconds"] > longest + _HANGING_SECONDS + CLOSING_SECONDS
    assert sum(one["resources"]["limits"].get("nvidia.com/gpu", 0) for one in containers) == 1
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {re.split("[:-]", one["image"].rpartition(":")[2])[0] for one in containers} == {version}


@pytest.mark.parametrize("manifest", [*SERVERS, named("Job")], ids=["deployment", "kserve", "triton", "job"])
def test_containers_have_no_rights_that_they_do_not_need(manifest: Manifest) -> None:
    pod = pod_of(manifest)
    assert pod["automountServiceAccountToken"] is False
    rights = pod["securityContext"]
    assert (rights["runAsNonRoot"], rights["runAsUser"], rights["fsGroup"]) == (True, 10001, 10001)
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    for one in [*pod["containers"], *pod.get("initContainers", [])]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@in_each_server
def test_probes_ask_routes_that_tell_a_live_server_from_a_ready_one(
    manifest: Manifest, small_backend: ThreadBackend, make_app: Callable[..., Any]
) -> None:
    """Loading, draining and a dead engine turn readiness red, and leave liveness green: no probe kills such a server."""
    app, registry = make_app(small_backend)
    client = TestClient(app)
    (front,) = pod_of(manifest)["containers"]

    def seen() -> list[int]:
        probes = ("startupProbe", "readinessProbe", "livenessProbe")
        return [client.get(front[probe]["httpGet"]["path"]).status_code for probe in probes]

    assert seen() == [200, 200, 200]
    registry.loading = True
    assert seen() == [503, 503, 200]
    registry.loading = False
    registry.drain()
    assert seen() == [503, 503, 200]
    assert client.get(named("PodMonitor")["spec"]["podMetricsEndpoints"][0]["path"]).status_code == 200


def test_a_server_has_the_metrics_that_autoscalers_ask_for(
    small_backend: ThreadBackend, make_app: Callable[..., Any]
) -> None:
    scrape = scrape_of(*make_app(small_backend))
    hpa = [one["pods"]["metric"]["name"] for one in named("HorizontalPodAutoscaler")["spec"]["metrics"]]
    keda = named("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]
    kserve = named("InferenceService")["spec"]["predictor"]["autoScaling"]["metrics"][0]["external"]["metric"]["query"]
    assert unknown([*hpa, keda, kserve], scrape) == []
    adapter = yaml.safe_load((FOLDER / "autoscaling" / "prometheus-adapter.values.yaml").read_text())
    pattern = re.search(r'__name__=~"(.*?)"', adapter["rules"]["custom"][0]["seriesQuery"])
    assert pattern is not None
    assert all(re.fullmatch(pattern[1], name) for name in hpa)


def test_arguments_are_settings_and_agree_with_what_is_around_the_servers() -> None:
    """KServe's pods have the same arguments; a front before Triton asks it for its model, and stops before it."""
    (front,) = pod_of(DEPLOYMENT)["containers"]
    settings = read_settings(Settings, front["args"])
    assert pod_of(named("InferenceService"))["containers"][0]["args"] == front["args"]
    assert settings.host == "0.0.0.0"
    assert settings.api_keys_file is not None
    with_triton = next(pod_of(one) for file, one in ALL if file == "triton/deployment.yaml")
    (before,), (sidecar,) = with_triton["containers"], with_triton["initContainers"]
    given, triton = read_settings(Settings, before["args"]), read_settings(TritonSettings, sidecar["args"])
    assert given.triton_url == (f"{triton.host}:{triton.grpc_port}",)
    assert [one.source for one in given.models] == [one.name for one in triton.models]
    assert triton.serve
    assert (triton.slots, triton.queue) == (settings.slots, settings.queue)
    assert (given.request_seconds, given.drain_seconds) == (settings.request_seconds, settings.drain_seconds)
    seconds = int(named("HTTPRoute")["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s"))
    assert seconds >= settings.request_seconds + 60  # `Service.stream_seconds`
    running = named("HorizontalPodAutoscaler")["spec"]["metrics"][1]["pods"]["target"]["averageValue"]
    keda = named("ScaledObject")["spec"]["triggers"][0]["metadata"]["threshold"]
    kserve = pod_of(named("InferenceService"))["autoScaling"]["metrics"][0]["external"]["target"]["value"]
    for threshold in (running, keda, kserve):  # a replica is added before all slots are taken
        assert 0.5 * settings.slots < int(threshold) < settings.slots


@pytest.mark.long
def test_what_the_job_writes_is_served_by_the_deployment(
    small_folder: Path, tmp_path: Path, command: Callable[..., Ended]
) -> None:
    """Both run with the manifests' arguments, on another model and other folders; requests need a key of the Secret."""
    places = {
        "/data/": f"{tmp_path}/",
        "/run/secrets/focusdiff/": f"{tmp_path}/",
        "/tmp/": f"{tmp_path}/",
        "wendell0218/Janus-FocusDiff-7B": str(small_folder),
        "deepseek-ai/Janus-Pro-7B": str(small_folder),
    }

    def arguments(container: Manifest) -> list[str]:
        return [re.sub("|".join(places), lambda found: places[found[0]], one) for one in container["args"]]

    (job,) = pod_of(named("Job"))["containers"]
    assert command(convert, *arguments(job)).code == 0
    (tmp_path / "keys").write_text("sk-1\n")
    (front,) = pod_of(DEPLOYMENT)["containers"]
    given = [one for one in arguments(front) if not one.startswith(("--port=", "--model=", "--no-ui"))]
    with ServeProcess(tmp_path / "focus", *given) as server:
        server.wait_until_ready()
        assert server.draw().status_code == 401
        body, keys = {"prompt": "a star", "response_format": "url"}, {"Authorization": "Bearer sk-1"}
        answer = httpx.post(f"{server.url}/v1/images/generations", json=body, headers=keys, timeout=60)
        assert answer.status_code == 200
        assert httpx.get(answer.json()["data"][0]["url"], timeout=60).content.startswith(b"\x89PNG")
        server.process.terminate()
        assert server.wait() == 0
