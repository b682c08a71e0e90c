"""Alerts and dashboard: promtool accepts them, and a server has every metric and label that they use."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.promql import scrape_of, unknown
from tests.thread_backend import ThreadBackend
from tests.tools import needs_promtool

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
BOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "focusdiff.json").read_text())


def expressions_of(board: dict[str, Any]) -> list[str]:
    """Expressions of panels, annotations and variables."""
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    annotations = [one["expr"] for one in board["annotations"]["list"]]
    variables = [re.sub(r"label_values\((\w+), (\w+)\)", r"count by (\2) (\1)", text) for text in definitions(board)]
    return [*panels, *annotations, *variables]


def definitions(board: dict[str, Any]) -> list[str]:
    return [one["definition"] for one in board["templating"]["list"] if one["type"] == "query"]


def promtool(*arguments: str | Path) -> None:
    ended = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_promtool_accepts_configuration_and_rules_and_their_tests_pass() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "rules.yml")
    promtool("test", "rules", *sorted((PROMETHEUS / "tests").glob("*.yml")))


def test_every_alert_is_tested_firing_and_silent() -> None:
    cases = [
        case
        for path in (PROMETHEUS / "tests").glob("*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) == fires} == set(ALERTS)


def test_every_alert_says_how_urgent_it_is_and_has_a_row_in_the_runbook() -> None:
    section = (ROOT / "docs" / "deploy.md").read_text().split("\n## What to alert on\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(FocusDiff\w+)` ", section, re.MULTILINE) == list(ALERTS)
    for alert in ALERTS.values():
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} < set(alert["annotations"])
        assert alert["annotations"]["runbook"] == "docs/deploy.md#what-to-alert-on"


def test_a_server_has_every_series_of_alerts_and_dashboard(
    small_backend: ThreadBackend, make_app: Callable[..., Any]
) -> None:
    scrape = scrape_of(*make_app(small_backend))
    assert unknown([alert["expr"] for alert in ALERTS.values()], scrape) == []
    assert unknown(expressions_of(BOARD), scrape) == []
    for name in ("focusdiff_no_such", 'focusdiff_ready{cause="x"}', 'focusdiff_state{state="asleep"}'):
        assert unknown([name], scrape)
    assert unknown(["sum by (cause) (focusdiff_ready)"], scrape)


def test_the_documented_command_gives_the_operator_the_same_alerts() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    (command,) = (block for block in re.findall(r"```sh\n(.*?)```", text, re.S) if "PrometheusRule" in block)
    command = command.replace("kubectl apply -f -", "cat")
    printed = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    manifest = yaml.safe_load(printed)
    assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert manifest["spec"] == RULES


@needs_promtool
def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    """promtool checks rules, so each expression becomes one; Grafana replaces its own variables before it asks."""
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions_of(BOARD))
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_dashboard_can_be_provisioned() -> None:
    """Its uid is fixed, its panels do not overlap, and its data source is the one that Grafana is given."""
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert BOARD["uid"] == "focusdiff"
    (chosen,) = [one for one in BOARD["templating"]["list"] if one["type"] == "datasource"]
    assert (chosen["query"], chosen["current"]["value"]) == (source["type"], source["uid"])
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))
