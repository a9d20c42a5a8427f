"""What /metrics tells, in the form that Prometheus reads."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from selfrag.serve.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """Counts of one server, in a registry of its own."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._replies = Counter(
            "selfrag_requests", "Replies.", ("route", "method", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "selfrag_request_seconds",
            "From the request to the end of the reply.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        for name, told, read in (
            ("ready", "Whether model and index are open.", lambda: float(service.is_ready)),
            ("streams", "Streams that are open.", lambda: float(service.n_streams)),
            ("waiting", "Questions in the queue.", lambda: float(_count(service, "n_waiting"))),
            ("running", "Questions in the batch.", lambda: float(_count(service, "n_running"))),
            ("rounds", "Rounds of the batch so far.", lambda: float(_count(service, "n_rounds"))),
        ):
            gauge = Gauge(f"selfrag_{name}", told, registry=self._registry)
            gauge.set_function(read)

    def on_reply(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts one reply; status 0: the client left before it."""
        self._replies.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


def _count(service: Service, name: str) -> int:
    return int(getattr(service.batcher, name)) if service.is_ready else 0
