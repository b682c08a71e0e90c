"""What Prometheus is told."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from serve.events import Event, Failed, Finished, Started
from serve.models import Models

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)


class Metrics:
    """Counts of one server, in a registry of its own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(models))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"focusdiff_{name}", text, labels, registry=self._registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"focusdiff_{name}_seconds", text, ["model"], buckets=_SECONDS, registry=self._registry)

        self.open = 0  # requests of the API whose answers are not complete
        Gauge(
            "focusdiff_open_requests", "Requests whose answers are not complete.", registry=self._registry
        ).set_function(lambda: self.open)
        self._images = counter("images", "Pictures finished.", "model")
        self._codes = counter("codes", "Image codes of finished pictures.", "model")
        self._failures = counter("failures", "Pictures or requests that failed, by cause.", "model", "cause")
        self._refusals = counter("queue_full", "Requests refused because too many images waited.", "model")
        self._answers = counter("http_answers", "Answers, by route and status.", "route", "status")
        self._queue = histogram("queue_wait", "From the request to the start of each of its images.")
        self._first = histogram("first_preview", "From the request to the first preview of each image.")
        self._latency = histogram("image", "From the request to each of its finished pictures.")

    def count(self, model: str, event: Event, seconds: float) -> None:
        """An event of a request, so many seconds after it was accepted."""
        match event:
            case Started():
                self._queue.labels(model).observe(seconds)
            case Finished(codes=codes):
                self._images.labels(model).inc()
                self._codes.labels(model).inc(len(codes))
                self._latency.labels(model).observe(seconds)
            case Failed(cause=cause):
                self._failures.labels(model, cause).inc()

    def first_preview(self, model: str, seconds: float) -> None:
        """An image's first preview came, so many seconds after its request was accepted."""
        self._first.labels(model).observe(seconds)

    def refuse(self, model: str) -> None:
        """A request found the queue full."""
        self._refusals.labels(model).inc()

    def answer(self, route: str, status: int) -> None:
        """A request was answered."""
        self._answers.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """What is so at the moment of the question."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """One gauge each, with a sample for every model."""
        everything = self._models.all
        stats = [(one.source.name, one.backend.stats) for one in everything]
        yield _gauge("running_images", "Images being drawn.", ((name, one.running) for name, one in stats))
        yield _gauge("waiting_images", "Images that wait for a slot.", ((name, one.waiting) for name, one in stats))
        yield _gauge("slots", "Guided images that can be drawn at once.", ((name, one.slots) for name, one in stats))
        ready = ((name, one.backend.state == "ready") for name, one in self._models.served.items())
        yield _gauge("ready", "Whether it takes requests.", ready)


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    """With a model's old and new backend added up while one takes the other's place."""
    totals: defaultdict[str, float] = defaultdict(float)
    for model, value in values:
        totals[model] += value
    family = GaugeMetricFamily(f"focusdiff_{name}", text, labels=["model"])
    for model, total in totals.items():
        family.add_metric([model], float(total))
    return family
