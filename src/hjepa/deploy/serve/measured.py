"""Counters and latencies in the format of Prometheus."""

import time
from collections.abc import Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from hjepa.deploy.serve.admission import Application, Receive, Send

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds


class Measured:
    """ASGI middleware: counts every answer, by path and status, and measures how long it took."""

    def __init__(self, app: Application, paths: Callable[[], set[str]]) -> None:
        self.app, self.paths = app, paths
        self.registry = CollectorRegistry()  # of this application: the global one belongs to the process
        self.answers = Counter("hjepa_requests", "Requests answered", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "hjepa_request_seconds", "Time to answer a request", ["path"], buckets=BUCKETS, registry=self.registry
        )
        self.images = Counter("hjepa_images", "Images encoded", registry=self.registry)
        self.batches = Counter("hjepa_batches", "Batches encoded", registry=self.registry)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Anybody can ask for any path, and each would be a time series of its own.
        path = scope["path"] if scope["path"] in self.paths() else "other"
        status, began = 500, time.perf_counter()

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.answers.labels(path, status).inc()
            self.seconds.labels(path).observe(time.perf_counter() - began)

    def count(self, images: int) -> None:
        """Count a batch."""
        self.images.inc(images)
        self.batches.inc()

    def text(self) -> bytes:
        """Return all measures as Prometheus reads them."""
        return generate_latest(self.registry)
