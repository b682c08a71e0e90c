"""Metrics for Prometheus."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from serve.backends.registry import Registry, ServerState
from serve.engine.events import Cause, Ended, Event, Failed, Finished, Started

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600)
_NOT_FINITE = "not finite"


class Metrics:
    """Counters, histograms and gauges of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._collectors = CollectorRegistry()
        self._collectors.register(_Gauges(registry))
        ProcessCollector(registry=self._collectors)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"focusdiff_{name}", text, labels, registry=self._collectors)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"focusdiff_{name}_seconds", text, labels, buckets=_SECONDS, registry=self._collectors)

        self.open = 0  # requests of the API whose answers are not complete
        Gauge(
            "focusdiff_open_requests", "Requests whose answers are not complete.", registry=self._collectors
        ).set_function(lambda: self.open)
        self._enlarging = Gauge(
            "focusdiff_enlarging_pictures", "Pictures in the upscaler or its queue.", registry=self._collectors
        )
        self._accepted = counter("accepted_images", "Images of accepted requests.", "model")
        self._images = counter("images", "Pictures finished.", "model")
        self._codes = counter("codes", "Image codes of finished pictures.", "model")
        self._failures = counter("failures", "Pictures or requests that failed, by cause.", "model", "cause")
        self._refusals = counter("queue_full", "Requests refused because the queue was full.", "model")
        self._answers = counter("http_answers", "Answers, by route and status.", "route", "status")
        self._refused = counter("refused_connections", "Connections ended before a request was complete.", "status")
        self._queue = histogram("queue_wait", "Seconds from a request to the start of each image.", "model")
        self._first = histogram("first_preview", "Seconds from a request to the first preview of each image.", "model")
        self._draw = histogram("draw", "Seconds from the start of each image to the finished picture.", "model")
        self._latency = histogram("image", "Seconds from a request to each finished picture.", "model")
        self._enlarge = histogram("enlarge", "Seconds of the upscaler for each picture.")
        self._not_enlarged = counter("upscaler_failures", "Pictures enlarged without the upscaler, because it failed.")

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
                self._failures.labels(model, _NOT_FINITE).inc()
            case Ended(cause="queue full"):
                self.refuse(model)
            case Ended(cause=str(cause)):
                self._failures.labels(model, cause).inc()

    def first_preview(self, model: str, seconds: float) -> None:
        """Count an image's first preview, `seconds` after its job was accepted."""
        self._first.labels(model).observe(seconds)

    def draw(self, model: str, seconds: float) -> None:
        """Count a finished picture, `seconds` after its image was started."""
        self._draw.labels(model).observe(seconds)

    def accept(self, model: str, images: int) -> None:
        """Count the images of an accepted job."""
        self._accepted.labels(model).inc(images)

    def refuse(self, model: str) -> None:
        """Count a job refused because the queue was full."""
        self._refusals.labels(model).inc()

    def answer(self, route: str, status: int) -> None:
        """Count an answered HTTP request."""
        self._answers.labels(route, str(status)).inc()

    def refuse_connection(self, status: int) -> None:
        """Count a connection that was ended because of its client, or because there were too many."""
        self._refused.labels(str(status)).inc()

    def watch_bodies(self, held: Callable[[], float]) -> None:
        """Read the bytes of request bodies that are held from `held`, at each scrape."""
        text = "Bytes of request bodies that are held."
        Gauge("focusdiff_request_body_bytes", text, registry=self._collectors).set_function(held)

    def enlarging(self) -> AbstractContextManager[None]:
        """Count a picture as in the upscaler or its queue, while the `with` block runs."""
        return self._enlarging.track_inprogress()

    def enlarge(self, seconds: float | None) -> None:
        """Count a picture that the upscaler has enlarged in `seconds`; None if it has failed to."""
        if seconds is None:
            self._not_enlarged.inc()
        else:
            self._enlarge.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format.

        Counters of served models start at 0: Prometheus does not see the first event of a counter that appears with it.
        """
        for model in self._registry.served:
            for metric in (self._accepted, self._images, self._codes, self._refusals):
                metric.labels(model)
            for histogram in (self._queue, self._first, self._draw, self._latency):
                histogram.labels(model)
            for cause in (_NOT_FINITE, *get_args(Cause)):
                if cause != "queue full":  # a refusal
                    self._failures.labels(model, cause)
        return generate_latest(self._collectors)


class _Gauges(Collector):
    """Gauges read from the registry at each scrape."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Yield gauges with one sample per model, and the states of the server."""
        everything = self._registry.all
        stats = [(one.source.name, one.backend.stats) for one in everything]
        yield _gauge("running_images", "Images being drawn.", ((name, one.running) for name, one in stats))
        yield _gauge("waiting_images", "Images that wait for a slot.", ((name, one.waiting) for name, one in stats))
        yield _gauge("slots", "Guided images that can be drawn at once.", ((name, one.slots) for name, one in stats))
        yield _gauge("queue_limit", "Images that may wait for a slot.", ((name, one.queue) for name, one in stats))
        served, accepting = self._registry.served, self._registry.accepting
        ready = ((name, accepting and one.backend.state == "ready") for name, one in served.items())
        yield _gauge("ready", "Whether the model accepts requests.", ready)
        yield self._models()
        yield self._states()

    def _models(self) -> Metric:
        """1 for each served model, with its source and the shape of its pictures as labels."""
        labels = ["model", "source", "revision", "image_size", "image_tokens"]
        family = GaugeMetricFamily("focusdiff_model_info", "The served models.", labels=labels)
        for name, one in self._registry.served.items():
            info = one.backend.info
            shape = str(info.image_size), str(info.image_tokens)
            family.add_metric([name, one.source.source, one.source.revision or "", *shape], 1)
        return family

    def _states(self) -> Metric:
        """1 for the server's state, 0 for the others."""
        family = GaugeMetricFamily("focusdiff_state", "The server's state.", labels=["state"])
        for state in get_args(ServerState):
            family.add_metric([state], float(state == self._registry.state))
        return family


def _gauge(name: str, text: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    """Build a gauge; while a model is replaced, its old and new backends are summed."""
    totals: defaultdict[str, float] = defaultdict(float)
    for model, value in values:
        totals[model] += value
    family = GaugeMetricFamily(f"focusdiff_{name}", text, labels=["model"])
    for model, total in totals.items():
        family.add_metric([model], float(total))
    return family
