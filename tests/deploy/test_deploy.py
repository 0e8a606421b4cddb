"""The manifests of scripts/deploy/kubernetes, and the Containerfile beside them.

tests/deploy is a program in Go that reads them by the code of Kubernetes' API server and of
BuildKit, and probes as a kubelet does. Manifests that pass it are then compared with the settings,
and the real server is run as they say.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest

from imagecall.access.setting import settings_of
from imagecall.server.settings import ServerSettings, read_settings
from imagecall.v1.conversion_service_pb2 import ParseCallRequest
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2 import GenerateImageRequest
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from imagecall.v1.image_request_pb2 import ImageRequest

_ROOT: Final = Path(__file__).parents[2]
_PROGRAM: Final = _ROOT / "tests/deploy"
_MANIFESTS: Final = _ROOT / "scripts/deploy/kubernetes"
_CONTAINERFILE: Final = _ROOT / "scripts/deploy/Containerfile"
_IMAGECALL: Final = str(Path(sys.executable).with_name("imagecall"))
_TOKENS: Final = ("the-first-token-of-ours", "the-second-token-of-ours")
_KEY: Final = "sk-a-key-of-nobody"

pytestmark = [
    pytest.mark.toolchain,
    pytest.mark.timeout(600),
]  # The program takes minutes to build, the first time.

Json = dict[str, Any]
Check = Callable[..., str]


class Refused(Exception):
    """Error that the validator reports for a file."""


@pytest.fixture(scope="session")
def check() -> Check:
    """Runs tests/deploy."""
    if not shutil.which("go"):
        pytest.fail("the tests of scripts/deploy need Go 1.26 or later: https://go.dev/doc/install")
    program = _PROGRAM / "gen/check"
    command = ["go", "build", "-o", str(program), "."]
    built = subprocess.run(command, cwd=_PROGRAM, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.fail(f"tests/deploy cannot be built, which takes Go 1.26 or later:\n{built.stderr}")

    def run(*arguments: object) -> str:
        command = [str(program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise Refused(done.stderr)
        return done.stdout

    return run


class Manifests(NamedTuple):
    """The objects, with every default."""

    objects: list[Json]

    def of(self, kind: str) -> list[Json]:
        return [each for each in self.objects if each["kind"] == kind]

    @property
    def deployment(self) -> Json:
        (found,) = self.of("Deployment")
        return found

    @property
    def pod(self) -> Json:
        found: Json = self.deployment["spec"]["template"]
        return found

    @property
    def container(self) -> Json:
        (found,) = self.pod["spec"]["containers"]
        return dict(found)

    @property
    def environment(self) -> dict[str, str]:
        return {each["name"]: each["value"] for each in self.container["env"]}

    @property
    def ports(self) -> dict[str, int]:
        return {each["name"]: each["containerPort"] for each in self.container["ports"]}

    @property
    def probes(self) -> list[Json]:
        return [self.container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")]


def _with_tls(directory: Path) -> Path:
    """A kustomization such as a user writes, with the component for TLS."""
    base = os.path.relpath(_MANIFESTS, directory.resolve())
    kustomization = {"resources": [base], "components": [f"{base}/tls"]}
    (directory / "kustomization.yaml").write_text(json.dumps(kustomization))
    return directory


@pytest.fixture(scope="module", params=["plain", "tls"])
def manifests(
    request: pytest.FixtureRequest, check: Check, tmp_path_factory: pytest.TempPathFactory
) -> Manifests:
    tls = request.param == "tls"
    directory = _with_tls(tmp_path_factory.mktemp("overlay")) if tls else _MANIFESTS
    return Manifests(json.loads(check("objects", directory)))


@pytest.fixture(scope="module")
def plain(check: Check) -> Manifests:
    return Manifests(json.loads(check("objects", _MANIFESTS)))


def test_the_api_server_takes_the_manifests(manifests: Manifests) -> None:
    assert sorted(each["kind"] for each in manifests.objects) == [
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "Service",
        "ServiceAccount",
    ]


@pytest.mark.parametrize(
    ("file", "before", "after", "said"),
    [
        ("deployment", "readinessProbe:", "readynessProbe:", 'unknown field "spec.template'),
        ("deployment", "maxSkew: 1", "maxSkew: 1\n        maxSkew: 1", '"maxSkew" already'),
        ("deployment", "replicas: 3", "replicas: three", "cannot unmarshal string"),
        ("deployment", "memory: 2Gi", "memory: 2 GB", "quantities must match"),
        ("deployment", "memory: 2Gi", "memory: 1G", "must be less than or equal to memory limit"),
        (
            "deployment",
            "  selector:\n    matchLabels: {app.kubernetes.io/name: imagecall}\n",
            "",
            "sel",
        ),
        ("deployment", "maxUnavailable: 0, maxSurge: 1", "maxUnavailable: 0, maxSurge: 0", "maxUn"),
        (
            "deployment",
            "{name: secret, mountPath",
            "{name: secrets, mountPath",
            "volumeMounts[0].name",
        ),
        ("deployment", "- {name: http, c", "- {name: grpc, c", "Duplicate value"),
        ("deployment", "failureThreshold: 60", "successThreshold: 2", "must be 1"),
        (
            "deployment",
            "capabilities: {drop: [ALL]}",
            "privileged: false",
            "unrestricted capabilities",
        ),
        ("deployment", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
        (
            "deployment",
            "seccompProfile: {type: RuntimeDefault}",
            "supplementalGroups: []",
            "seccomp",
        ),
        ("services", "port: 80,", "port: 80800,", "between 1 and 65535"),
        ("services", "clusterIP: None", "clusterIP: none", "must be a valid IP address"),
        ("autoscaling", "minReplicas: 3", "minReplicas: 30", "must be greater than or equal to"),
        (
            "autoscaling",
            "type: AverageValue, averageValue",
            "type: AverageValue, value",
            "averageValue",
        ),
        ("autoscaling", "apiVersion: autoscaling/v2", "apiVersion: autoscaling/v3", "no kind"),
        ("disruption-budget", "maxUnavailable: 1", "maxUnavailable: 1\n  minAvailable: 1", "both"),
        ("network-policy", "{port: 443}", "{port: 443, protocol: HTTP}", "Unsupported value"),
        ("kustomization", "resources:", "resource:", 'unknown field "resource"'),
    ],
)
def test_a_mistake_in_the_manifests_is_refused(
    check: Check, tmp_path: Path, file: str, before: str, after: str, said: str
) -> None:
    copy = shutil.copytree(_MANIFESTS, tmp_path / "kubernetes")
    path = copy / f"{file}.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(Refused, match=re.escape(said)):
        check("objects", copy)


def test_selectors_and_ports_match_the_pods(manifests: Manifests) -> None:
    labels = manifests.pod["metadata"]["labels"].items()
    selectors = [each["spec"]["selector"] for each in manifests.of("Service")]
    for kind, key in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        selectors += [each["spec"][key]["matchLabels"] for each in manifests.of(kind)]
    for constraint in manifests.pod["spec"]["topologySpreadConstraints"]:
        selectors.append(constraint["labelSelector"]["matchLabels"])
    for selector in selectors:
        assert selector
        assert selector.items() <= labels

    settings = read_settings(ServerSettings, {}, manifests.environment)
    doors = {name: int(at.rpartition(":")[2]) for name, at in settings.addresses.items()}
    assert manifests.ports == doors
    targets = {each["spec"]["ports"][0]["targetPort"] for each in manifests.of("Service")}
    assert targets == set(settings.call_addresses)
    (policy,) = manifests.of("NetworkPolicy")
    of_callers, of_prometheus = (
        {port["port"] for port in rule["ports"]} for rule in policy["spec"]["ingress"]
    )
    assert (of_callers, of_prometheus) == (set(settings.call_addresses), {"metrics"})
    for probe in manifests.probes:
        asked = probe.get("grpc") or probe["httpGet"]
        assert asked["port"] in (doors["grpc"], "http")
    noted = manifests.pod["metadata"]["annotations"]
    assert int(noted["prometheus.io/port"]) == doors["metrics"]
    assert "prometheus.io/scheme" not in noted
    (account,) = manifests.of("ServiceAccount")
    assert manifests.pod["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_the_environment_is_of_settings_that_there_are(manifests: Manifests) -> None:
    names = {setting.variable for setting in settings_of(ServerSettings)}
    assert set(manifests.environment) <= names
    settings = read_settings(ServerSettings, {}, manifests.environment)  # Raises if a value is bad.
    assert settings.metrics
    assert not settings.without_tokens


def test_files_are_where_the_settings_say(manifests: Manifests) -> None:
    """In Secrets that are mounted whole: what is mounted by a subPath stays as it was."""
    keys = {"imagecall": {"tokens", "api-key"}, "imagecall-tls": {"tls.crt", "tls.key"}}
    volumes = {each["name"]: each["secret"] for each in manifests.pod["spec"]["volumes"]}
    wanted = set()
    for mount in manifests.container["volumeMounts"]:
        volume = volumes[mount["name"]]
        assert mount["readOnly"]
        assert "subPath" not in mount
        assert volume["defaultMode"] == 0o440
        wanted |= {f"{mount['mountPath']}/{key}" for key in keys[volume["secretName"]]}
    assert wanted == {value for value in manifests.environment.values() if value.startswith("/")}
    assert manifests.pod["spec"]["securityContext"]["fsGroup"] > 0


def test_a_pod_has_the_time_to_drain(manifests: Manifests) -> None:
    settings = read_settings(ServerSettings, {}, manifests.environment)
    needed = settings.drain_delay_seconds + settings.drain_seconds
    grace = manifests.pod["spec"]["terminationGracePeriodSeconds"]
    assert needed + 10 <= grace <= needed + 60
    # Until it is out of the endpoints, and clients have asked again for the addresses.
    assert settings.drain_delay_seconds >= 10
    (scaler,) = manifests.of("HorizontalPodAutoscaler")
    down = scaler["spec"]["behavior"]["scaleDown"]
    assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": grace}]


def test_the_autoscaler_is_for_the_deployment(manifests: Manifests) -> None:
    (scaler,) = manifests.of("HorizontalPodAutoscaler")
    target = scaler["spec"]["scaleTargetRef"]
    deployment = manifests.deployment
    assert target["apiVersion"] == deployment["apiVersion"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert scaler["spec"]["minReplicas"] == deployment["spec"]["replicas"] == 3
    metric = scaler["spec"]["metrics"][0]["pods"]
    settings = read_settings(ServerSettings, {}, manifests.environment)
    assert 0 < int(metric["target"]["averageValue"]) < settings.limits.calls


class Running(NamedTuple):
    """A server, and the directory that its Secrets are mounted below."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    mounts: Path


def _mount(directory: Path, files: Mapping[str, str]) -> None:
    """Writes files as a kubelet does: into a new directory, with one link changed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    version = directory / f"..{time.monotonic_ns()}"
    version.mkdir()
    for name, text in files.items():
        (version / name).write_text(text)
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")
    (directory / "..data_tmp").symlink_to(version.name)
    (directory / "..data_tmp").rename(directory / "..data")


@contextmanager
def _served(
    command: Sequence[str], environment: Mapping[str, str], directory: Path
) -> Iterator[Running]:
    """The server with this environment, on free ports; its Secrets stand in the directory."""
    mounts = directory / "etc"
    _mount(mounts / "imagecall/secret", {"tokens": f"caller {_TOKENS[0]}\n", "api-key": _KEY})
    moved = {
        name: str(directory / value[1:]) if value.startswith("/etc/") else value
        for name, value in environment.items()
    }
    moved |= dict.fromkeys(("IMAGECALL_GRPC", "IMAGECALL_HTTP"), "0.0.0.0:0")
    if "IMAGECALL_METRICS" in moved:
        moved["IMAGECALL_METRICS"] = "0.0.0.0:0"
    moved["IMAGECALL_BACKEND"] = "embedded"
    with subprocess.Popen(
        command, env=moved, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout
            said, found = "", []
            for line in process.stdout:
                said += line
                step = json.loads(line)
                if step["message"] == "listening":
                    found.append(step["address"].removeprefix("0.0.0.0:"))
                if len(found) == 3:
                    break
            assert len(found) == 3, said
            yield Running(process, found[0], found[1], mounts)
        finally:
            process.kill()


def _served_as(manifests: Manifests, directory: Path) -> Any:
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), **manifests.environment}
    environment["IMAGECALL_DRAIN_DELAY_SECONDS"] = "2"
    return _served([_IMAGECALL, "serve"], environment, directory)


def _probe(check: Check, probe: Json, server: Running) -> str:
    """Probes as a kubelet does. Raises Refused if the probe fails."""
    if asked := probe.get("grpc"):
        return check("grpc-probe", "127.0.0.1", server.grpc, asked["service"])
    asked = probe["httpGet"]
    assert asked["scheme"] == "HTTPS"
    return check("https-probe", "127.0.0.1", server.http, asked["path"])


def _parse(port: str, token: str) -> grpc.StatusCode:
    """The status of a call with this token."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = ParseCallRequest(json='{"type":"image_generation_call","id":"ig_1"}')
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            ConversionServiceStub(channel).ParseCall(request, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_probes_need_no_token_and_calls_do(check: Check, plain: Manifests, tmp_path: Path) -> None:
    with _served_as(plain, tmp_path) as server:
        for probe in plain.probes:
            _probe(check, probe, server)
        assert _parse(server.grpc, "none") == grpc.StatusCode.UNAUTHENTICATED
        assert _parse(server.grpc, _TOKENS[0]) == grpc.StatusCode.OK


def test_a_changed_secret_comes_through(plain: Manifests, tmp_path: Path) -> None:
    with _served_as(plain, tmp_path) as server:
        files = {"tokens": f"caller {_TOKENS[1]}\n", "api-key": _KEY}
        _mount(server.mounts / "imagecall/secret", files)
        time.sleep(1.1)  # The server looks at the files once a second.
        assert _parse(server.grpc, _TOKENS[0]) == grpc.StatusCode.UNAUTHENTICATED
        assert _parse(server.grpc, _TOKENS[1]) == grpc.StatusCode.OK


def test_a_pod_that_ends_is_not_ready_and_finishes(
    check: Check, plain: Manifests, tmp_path: Path
) -> None:
    readiness = plain.container["readinessProbe"]
    slow = ImageRequest(prompt="a fox")
    slow.extra_fields.add(name="embedded", json='{"delay_seconds":4}')
    metadata = (("authorization", f"Bearer {_TOKENS[0]}"),)
    with (
        _served_as(plain, tmp_path) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel,
    ):
        stub = ImageGenerationServiceStub(channel)
        call = stub.GenerateImage.future(
            GenerateImageRequest(request=slow), timeout=60, metadata=metadata
        )
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(Refused, match="NOT_SERVING"):
            _probe(check, readiness, server)
        assert (
            _parse(server.grpc, _TOKENS[0]) == grpc.StatusCode.OK
        )  # For those who do not know yet.
        assert call.result().response.calls
        assert server.process.wait(60) == 0


def test_probes_pass_with_tls(check: Check, tmp_path: Path) -> None:
    (tmp_path / "overlay").mkdir()
    manifests = Manifests(json.loads(check("objects", _with_tls(tmp_path / "overlay"))))
    files = tmp_path / "etc/imagecall/tls"
    files.mkdir(parents=True)
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    command += " -subj /CN=imagecall -keyout tls.key -out tls.crt"
    subprocess.run(shlex.split(command), cwd=files, check=True, capture_output=True)
    with _served_as(manifests, tmp_path) as server:
        for probe in manifests.probes:
            _probe(check, probe, server)
        with pytest.raises(Refused):  # Which is why the probes are others with TLS.
            check("grpc-probe", "127.0.0.1", server.grpc, "")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("RUN python", "RUNS python", "unknown instruction: RUNS"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("AS build", "as build", "FromAsCasing"),
        ("COPY src src", "COPY --form=build src src", "unknown flag"),
    ],
)
def test_a_mistake_in_the_containerfile_is_refused(
    check: Check, tmp_path: Path, before: str, after: str, said: str
) -> None:
    text = _CONTAINERFILE.read_text()
    assert before in text
    path = tmp_path / "Containerfile"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(Refused, match=said):
        check("containerfile", path)


class Stage(NamedTuple):
    """A stage of the Containerfile: what follows each instruction, as BuildKit reads it."""

    instructions: list[Json]

    def all(self, name: str) -> list[Json]:
        return [each["value"] for each in self.instructions if each["name"] == name]

    def one(self, name: str) -> Json:
        (found,) = self.all(name)
        return found


@pytest.fixture(scope="module")
def stages(check: Check) -> tuple[Stage, Stage]:
    build, final = json.loads(check("containerfile", _CONTAINERFILE))
    return Stage(build["instructions"]), Stage(final["instructions"])


def test_the_image_is_what_the_manifests_expect(
    stages: tuple[Stage, Stage], plain: Manifests
) -> None:
    _, final = stages
    context = plain.pod["spec"]["securityContext"]
    assert final.one("USER")["User"] == f"{context['runAsUser']}:{context['runAsGroup']}"
    assert sorted(final.one("EXPOSE")["Ports"]) == sorted(map(str, plain.ports.values()))
    assert final.one("STOPSIGNAL")["Signal"] == "SIGTERM"
    assert final.one("ENTRYPOINT")["CmdLine"] == ["imagecall", "serve"]
    assert not final.all("RUN")
    assert not plain.container.keys() & {"command", "args"}


def test_what_the_containerfile_builds_serves_without_the_repository(
    check: Check, stages: tuple[Stage, Stage], plain: Manifests, tmp_path: Path
) -> None:
    """Its instructions, done by hand in a directory instead of an image."""
    build, final = stages
    work, built = tmp_path / "build", tmp_path / "opt/imagecall"
    work.mkdir()
    for copied in build.all("COPY"):
        for source in copied["SourcePaths"]:
            target = work / copied["DestPath"]
            if (_ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(_ROOT / source, target, ignore=ignored)
            else:
                shutil.copy(_ROOT / source, target)
    base = tmp_path / "base"
    subprocess.run([sys.executable, "-m", "venv", base], check=True)
    path = f"{base}/bin:/usr/bin:/bin"
    for ran in build.all("RUN"):
        command = ran["CmdLine"][0].replace("/opt/imagecall", str(built))
        environment = {**os.environ, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        environment.pop("PYTHONPATH", None)
        subprocess.run(["sh", "-ec", command], cwd=work, env=environment, check=True, timeout=300)
    shutil.rmtree(work)

    assert [each["SourcePaths"] for each in final.all("COPY")] == [["/opt/imagecall"]]
    environment = {each["Key"]: each["Value"] for each in final.one("ENV")["Env"]}
    assert environment["PATH"] == "/opt/imagecall/bin:$PATH"
    environment["PATH"] = str(built / "bin")
    # Without the Deployment, it listens everywhere and so refuses strangers at once.
    command = [str(built / "bin" / final.one("ENTRYPOINT")["CmdLine"][0]), "serve"]
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "--tokens-file" in done.stderr
    environment |= plain.environment
    with _served(command, environment, tmp_path) as server:
        _probe(check, plain.container["readinessProbe"], server)
        assert _parse(server.grpc, _TOKENS[0]) == grpc.StatusCode.OK
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)  # A second one hurries.
        assert server.process.wait(20) == 0
    assert not list(built.rglob("*.egg-link"))
