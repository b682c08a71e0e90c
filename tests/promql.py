"""Series that PromQL expressions select, and whether a server has them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from serve.backends.registry import Registry

_IMAGES = "/v1/images/generations"
_SELECTOR = re.compile(r"\b(up|(?:focusdiff|process)_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|group_left)\s*\(([^)]*)\)")
_OF_TARGETS = {"job": "focusdiff", "instance": "server:8000"}  # labels that Prometheus adds


def scrape_of(app: FastAPI, registry: Registry) -> str:
    """Metrics of a server that has drawn a picture, refused a request, and is draining now."""
    client = TestClient(app)
    assert client.post(_IMAGES, json={"prompt": "a star"}).status_code == 200
    assert client.post(_IMAGES, json={"prompt": ""}).status_code == 400
    registry.drain()
    assert client.post(_IMAGES, json={"prompt": "a star"}).status_code == 503
    return client.get("/metrics").text


@dataclass(frozen=True)
class Selector:
    """A metric's name and the conditions on its labels: name, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        for name, operator, value in self.matchers:
            found = labels.get(name, "")
            equal = re.fullmatch(value, found) is not None if "~" in operator else found == value
            if name not in labels or equal == operator.startswith("!"):
                return False
        return True


def selectors(expression: str) -> list[Selector]:
    """Every selector of our metrics in an expression; Grafana's variables match everything."""
    filled = re.sub(r"\$\{?\w+\}?", ".*", expression)
    return [
        Selector(name, tuple((one[0], one[1], one[2]) for one in _MATCHER.findall(conditions)))
        for name, conditions in _SELECTOR.findall(filled)
    ]


def grouped_by(expression: str) -> set[str]:
    """Labels named in `by`, `on` and `group_left` clauses."""
    lists = ",".join(_GROUPING.findall(expression))
    return {label.strip() for label in lists.split(",") if label.strip()}


def series_of(scrape: str) -> dict[str, list[dict[str, str]]]:
    """Labels of every series by metric, with those that Prometheus adds; `up` is Prometheus's own metric."""
    series = {"up": [dict(_OF_TARGETS)]}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            series.setdefault(sample.name, []).append({**sample.labels, **_OF_TARGETS})
    return series


def unknown(expressions: Iterable[str], scrape: str) -> list[str]:
    """Selectors that select nothing in the scrape, and grouping labels that none of the expression's series has."""
    series = series_of(scrape)
    found = []
    for expression in expressions:
        chosen = selectors(expression)
        assert chosen, f"no metric in {expression!r}"
        found += [str(one) for one in chosen if not any(map(one.matches, series.get(one.metric, ())))]
        labels = {label for one in chosen for of_one in series.get(one.metric, ()) for label in of_one}
        found += [f"by {label} in {expression}" for label in grouped_by(expression) - labels]
    return found
