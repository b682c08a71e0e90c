"""Metrics for Prometheus."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from serve.backends.registry import Registry
from serve.engine.events import Ended, Event, Failed, Finished, Started

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """Counters, histograms and gauges of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: Registry) -> None:
        self._collectors = CollectorRegistry()
        self._collectors.register(_Gauges(registry))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"focusdiff_{name}", text, labels, registry=self._collectors)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"focusdiff_{name}_seconds", text, ["model"], buckets=_SECONDS, registry=self._collectors)

        self.open = 0  # requests of the API whose answers are not complete
        Gauge(
            "focusdiff_open_requests", "Requests whose answers are not complete.", registry=self._collectors
        ).set_function(lambda: self.open)
        self._images = counter("images", "Pictures finished.", "model")
        self._codes = counter("codes", "Image codes of finished pictures.", "model")
        self._failures = counter("failures", "Pictures or requests that failed, by cause.", "model", "cause")
        self._refusals = counter("queue_full", "Requests refused because the queue was full.", "model")
        self._answers = counter("http_answers", "Answers, by route and status.", "route", "status")
        self._queue = histogram("queue_wait", "Seconds from a request to the start of each image.")
        self._first = histogram("first_preview", "Seconds from a request to the first preview of each image.")
        self._latency = histogram("image", "Seconds from a request to each finished picture.")

    def count(self, model: str, event: Event, seconds: float) -> None:
        """Count an event of a job, `seconds` after the job was accepted."""
        match event:
            case Started():
                self._queue.labels(model).observe(seconds)
            case Finished(codes=codes):
                self._images.labels(model).inc()
                self._codes.labels(model).inc(len(codes))
                self._latency.labels(model).observe(seconds)
            case Failed():
                self._failures.labels(model, "not finite").inc()
            case Ended(cause=str(cause)):
                self._failures.labels(model, cause).inc()

    def first_preview(self, model: str, seconds: float) -> None:
        """Count an image's first preview, `seconds` after its job was accepted."""
        self._first.labels(model).observe(seconds)

    def refuse(self, model: str) -> None:
        """Count a job refused because the queue was full."""
        self._refusals.labels(model).inc()

    def answer(self, route: str, status: int) -> None:
        """Count an answered HTTP request."""
        self._answers.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._collectors)


class _Gauges(Collector):
    """Gauges read from the registry at each scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield gauges with one sample per model."""
        everything = self._registry.all
        stats = [(one.source.name, one.backend.stats) for one in everything]
        yield _gauge("running_images", "Images being drawn.", ((name, one.running) for name, one in stats))
        yield _gauge("waiting_images", "Images that wait for a slot.", ((name, one.waiting) for name, one in stats))
        yield _gauge("slots", "Guided images that can be drawn at once.", ((name, one.slots) for name, one in stats))
        ready = ((name, one.backend.state == "ready") for name, one in self._registry.served.items())
        yield _gauge("ready", "Whether the model accepts requests.", ready)


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    """Build a gauge; while a model is replaced, its old and new backends are summed."""
    totals: defaultdict[str, float] = defaultdict(float)
    for model, value in values:
        totals[model] += value
    family = GaugeMetricFamily(f"focusdiff_{name}", text, labels=["model"])
    for model, total in totals.items():
        family.add_metric([model], float(total))
    return family
