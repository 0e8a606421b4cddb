"""Alerts, dashboard and the autoscaler's metric, compared with the metrics of a real server."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from imagecall.access.admission import Admission
from imagecall.access.setting import settings_of
from imagecall.backends.embedded.backend import EmbeddedBackend
from imagecall.backends.grpc.backend import GrpcBackend
from imagecall.backends.responses_api.backend import HttpBackend
from imagecall.generation.observed_backend import ObservedBackend
from imagecall.rpc.addresses import ServerAddress
from imagecall.server.run import watch
from imagecall.server.settings import CONFIG, ServerSettings, read_settings
from imagecall.v1 import conversion_service_pb2 as pb
from imagecall.v1.conversion_service_pb2_grpc import ConversionServiceStub
from imagecall.v1.image_generation_service_pb2_grpc import ImageGenerationServiceStub
from tests.doors.test_generation import A_STREAM
from tests.observing.servers import grpc_door, http_door, metrics_door, observing
from tests.observing.test_generations import with_usage
from tests.streams import PNG, framed, happy
from tests.upstream import upstream

DEPLOY: Final = Path(__file__).parents[2] / "scripts/deploy"
RULES: Final = DEPLOY / "prometheus/rules.yaml"
RULES_TEST: Final = DEPLOY / "prometheus/rules_test.yaml"
DOORS: Final = ("grpc", "http", "metrics")
README: Final = DEPLOY / "README.md"
_NAME: Final = re.compile(r"\b(?:imagecall|gen_ai|process|rpc|http)_[a-z0-9_]+")
_MATCHER: Final = re.compile(r'(\w+)=~?"([^"$]+)"')


class Scrape(NamedTuple):
    """A scrape of a server that has had calls of each kind."""

    text: str

    def samples(self) -> Iterator[Any]:
        for family in text_string_to_metric_families(self.text):
            yield from family.samples

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.samples()}

    @property
    def labels(self) -> dict[str, set[str]]:
        """The values of each label."""
        found: dict[str, set[str]] = {}
        for sample in self.samples():
            for name, value in sample.labels.items():
                found.setdefault(name, set()).add(value)
        return found


@pytest.fixture
async def scrape() -> AsyncIterator[Scrape]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(upstream())
        api.say(framed(with_usage(happy(partials=[PNG]))))
        seen = await stack.enter_async_context(observing(metrics="127.0.0.1:0"))
        watch(seen, Admission())
        backend = ObservedBackend(HttpBackend(api.url), "test")
        inner = await stack.enter_async_context(grpc_door(backend, observer=seen))
        relay = ObservedBackend(GrpcBackend(ServerAddress(inner)), "test")
        outer = await stack.enter_async_context(grpc_door(relay, observer=seen))
        door = await stack.enter_async_context(http_door(EmbeddedBackend(), observer=seen))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(outer))
        images: Any = ImageGenerationServiceStub(channel)
        [_ async for _ in images.StreamImage(A_STREAM)]
        conversions: Any = ConversionServiceStub(channel)
        await conversions.ParseCall(pb.ParseCallRequest(json='{"type":"image_generation_call"}'))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await session.get(f"{door}/nowhere")
        metrics = await stack.enter_async_context(metrics_door(seen))
        async with session.get(f"{metrics}/metrics") as answer:
            yield Scrape(await answer.text())


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard_queries() -> dict[str, str]:
    """The queries of the dashboard, by the title of the panel and the reference of the query."""
    panels = json.loads((DEPLOY / "grafana/dashboard.json").read_text())["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", ())
    }


def expressions() -> dict[str, str]:
    """Everything that names metrics, by its own name."""
    scaler = (DEPLOY / "kubernetes/autoscaling.yaml").read_text()
    return {
        **{rule["alert"]: rule["expr"] for rule in rules()},
        **dashboard_queries(),
        "autoscaler": yaml.safe_load(scaler)["spec"]["metrics"][0]["pods"]["metric"]["name"],
        "adapter": "".join(re.findall(r"seriesQuery: (\w+)", scaler)),
    }


async def test_every_metric_and_label_that_is_used_is_in_a_scrape(scrape: Scrape) -> None:
    known = scrape.names | set(scrape.labels)
    for place, expression in expressions().items():
        unknown = set(_NAME.findall(expression)) - known
        assert not unknown, place


async def test_every_value_of_a_label_that_is_used_is_there_before_it_happens(
    scrape: Scrape,
) -> None:
    for place, expression in expressions().items():
        for label, pattern in _MATCHER.findall(expression):
            values = {value for value in scrape.labels[label] if re.fullmatch(pattern, value)}
            assert len(values) >= pattern.count("|") + 1, place


async def test_the_readme_tells_what_each_metric_means_and_names_no_other(scrape: Scrape) -> None:
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(scrape.text)
    }
    named = set(re.findall(r"`(\w+)(?:\{[^`]*)?`", README.read_text()))
    assert families - named == set()
    unknown = {n for n in named if _NAME.fullmatch(n)} - families - set(scrape.labels)
    assert unknown == set()


def test_the_readme_tells_what_to_do_at_each_alert() -> None:
    headings = re.findall(r"^\| `(Imagecall\w+)` \| \S", README.read_text(), re.M)
    assert headings == [rule["alert"] for rule in rules()]


def test_each_alert_is_tried_and_fires_on_no_healthy_server() -> None:
    names = [rule["alert"] for rule in rules()]
    tests = yaml.safe_load(RULES_TEST.read_text())["tests"]
    cases = [case for each in tests for case in each["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(names)
    healthy, idle, *_ = tests
    for each in (healthy, idle):
        assert [case["alertname"] for case in each["alert_rule_test"]] == names
        assert not any(case.get("exp_alerts") for case in each["alert_rule_test"])


def test_the_autoscaler_the_pod_monitor_and_the_pods_fit_each_other() -> None:
    folder = DEPLOY / "kubernetes"
    pod = yaml.safe_load((folder / "deployment.yaml").read_text())["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    monitor = yaml.safe_load((folder / "prometheus-operator/pod-monitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("metrics", "/metrics")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {each["name"]: each["value"] for each in container["env"]}
    settings = read_settings(ServerSettings, {}, environment)
    assert settings.addresses["metrics"] == f"0.0.0.0:{ports['metrics']}"
    noted = pod["metadata"]["annotations"]
    assert int(noted["prometheus.io/port"]) == ports["metrics"]
    found = expressions()
    assert found["autoscaler"] == found["adapter"] == "imagecall_calls_in_progress"
    component = yaml.safe_load((folder / "prometheus-operator/kustomization.yaml").read_text())
    assert component["resources"] == ["pod-monitor.yaml"]


def test_the_example_of_prometheus_reads_the_rules() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    assert config["rule_files"] == [RULES.name]


class Tools(NamedTuple):
    """Programs of Prometheus."""

    prometheus: str
    promtool: str


@pytest.fixture(scope="session")
def tools() -> Tools:
    found = [shutil.which(name) for name in Tools._fields]
    if None in found:
        pytest.fail("the tests of the alerts need Prometheus 2.42 or later: scripts/prometheus")
    return Tools(*map(str, found))


def promtool(tools: Tools, *arguments: object, text: str = "") -> str:
    command = [tools.promtool, *map(str, arguments)]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.toolchain
async def test_promtool_finds_nothing_wrong(tools: Tools, scrape: Scrape) -> None:
    promtool(tools, "check", "rules", RULES)
    promtool(tools, "test", "rules", RULES_TEST)
    promtool(tools, "check", "config", DEPLOY / "prometheus/prometheus.yaml")
    assert promtool(tools, "check", "metrics", text=scrape.text) == ""


@contextmanager
def two_workers() -> Iterator[dict[str, str]]:
    """A server of two workers; yields the address of each of its doors."""
    command = [sys.executable, "-m", "imagecall", "serve", "--log-format", "json"]
    options = ["--workers", "2", "--drain-delay-seconds", "0.1"]
    addresses = [part for name in DOORS for part in (f"--{name}", "127.0.0.1:0")]
    with subprocess.Popen(
        [*command, *options, *addresses], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        found: dict[str, str] = {}
        while len(found) < len(DOORS):
            line = json.loads(process.stderr.readline())
            if line["message"] == "listening":
                found[line["door"]] = line["address"]
        try:
            yield found
        finally:
            process.terminate()
            process.communicate(timeout=60)


@contextmanager
def prometheus(tools: Tools, directory: Path, target: str) -> Iterator[str]:
    """Prometheus with the shipped configuration, faster, for a target; yields its URL."""
    config = (DEPLOY / "prometheus/prometheus.yaml").read_text()
    assert "127.0.0.1:9464" in config
    config = config.replace("127.0.0.1:9464", target).replace(": 15s", ": 1s")
    (directory / "prometheus.yaml").write_text(config)
    shutil.copy(RULES, directory)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [tools.prometheus, f"--config.file={directory}/prometheus.yaml"]
    options = [f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}"]
    with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{address}/api/v1"
        finally:
            process.terminate()


async def asked(session: aiohttp.ClientSession, url: str, query: str = "") -> Any:
    """The data of an answer of Prometheus, once Prometheus listens."""
    while True:
        try:
            async with session.get(url, params={"query": query} if query else {}) as answer:
                if answer.status != 503:
                    body = await answer.json()
                    assert body["status"] == "success", body
                    return body["data"]
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)


@pytest.mark.toolchain
async def test_prometheus_reads_two_workers_and_runs_every_query(
    tools: Tools, tmp_path: Path
) -> None:
    with two_workers() as doors, prometheus(tools, tmp_path, doors["metrics"]) as url:
        request = pb.ParseCallRequest(json='{"type":"image_generation_call","id":"ig_1"}')
        for _ in range(20):
            options = [("grpc.use_local_subchannel_pool", 1)]
            async with grpc.aio.insecure_channel(doors["grpc"], options) as channel:
                stub: Any = ConversionServiceStub(channel)
                await stub.ParseCall(request, timeout=60, wait_for_ready=True)
        async with aiohttp.ClientSession() as session:
            calls = "sum(imagecall_calls_total{imagecall_outcome='ok'}) == 20"
            while not (await asked(session, f"{url}/query", calls))["result"]:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            for place, query in dashboard_queries().items():
                query = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
                assert await asked(session, f"{url}/query", query), place
            (group,) = (await asked(session, f"{url}/rules"))["groups"]
            while any(rule["health"] == "unknown" for rule in group["rules"]):
                await asyncio.sleep(0.2)
                (group,) = (await asked(session, f"{url}/rules"))["groups"]
            assert [rule["name"] for rule in group["rules"] if rule["health"] != "ok"] == []
            assert [rule["name"] for rule in group["rules"] if rule["state"] == "firing"] == []


@pytest.mark.toolchain
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd/imagecall.service").read_text()
    (start,) = re.findall(r"^ExecStart=(\S+) (.*)$", text, re.M)
    assert start[1] == "serve"
    unit = tmp_path / "imagecall.service"
    unit.write_text(text.replace(start[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_settings_of_the_unit_are_those_of_the_server() -> None:
    text = (DEPLOY / "systemd/imagecall.service").read_text()
    environment = dict(re.findall(r"^Environment=(IMAGECALL_\w+)=(.*)$", text, re.M))
    settings = read_settings(ServerSettings, {}, environment)
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert int(seconds) > settings.drain_delay_seconds + settings.drain_seconds
    assert {setting.variable for setting in settings_of(ServerSettings)} | {
        CONFIG
    } >= environment.keys()
