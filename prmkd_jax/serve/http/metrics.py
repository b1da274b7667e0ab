"""What Prometheus reads of the service."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one service, in a registry of their own.

    Labels have few values: a path that doesn't exist counts as "other".
    """

    def __init__(self):
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "prmkd_requests", "Requests answered.", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "prmkd_request_seconds",
            "Time from a request's body to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.open = Gauge("prmkd_requests_open", "Requests in work.", registry=self._registry)
        self.batch = Histogram(
            "prmkd_batch_histories",
            "Histories that were computed together.",
            buckets=_ROWS,
            registry=self._registry,
        )
        self.compute = Histogram(
            "prmkd_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=self._registry
        )
        self.unknown = Counter(
            "prmkd_unknown_items",
            "Items of histories that the model doesn't know.",
            registry=self._registry,
        )
        self.reloads = Counter(
            "prmkd_reloads", "Newer models found.", ["result"], registry=self._registry
        )
        self.unhandled = Counter(
            "prmkd_unhandled_errors", "Requests that met a bug.", registry=self._registry
        )
        self._model = Gauge(
            "prmkd_model", "1 for each model served.", ["slot", "name", "digest"],
            registry=self._registry,
        )  # fmt: skip
        for result in ("done", "refused"):
            self.reloads.labels(result)

    def reloaded(self, done: bool) -> None:
        """Counts a newer model."""
        self.reloads.labels("done" if done else "refused").inc()

    def text(self, models: dict[str, dict[str, str]]) -> bytes:
        """All figures in Prometheus' text format.

        Args:
            models: slot → what `Loaded.described` says.
        """
        self._model.clear()
        for slot, model in models.items():
            self._model.labels(slot, model["name"], model["digest"][:12]).set(1)
        return generate_latest(self._registry)
