"""What is decided before a request is read: its size, and whether there is room for it."""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hjepa.deploy.serve.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class TooLarge(Exception):
    """A body that grew beyond the limit while it was received."""


class Admission:
    """ASGI middleware: answers 413 to bodies that are too large and 429 while too many requests are waiting.

    Only POST requests count: health and metrics are answered under any load.
    """

    def __init__(self, app: Application, limits: Limits) -> None:
        self.app, self.limits = app, limits
        self.waiting = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.waiting >= self.limits.max_waiting:
            busy = f"{self.waiting} requests are waiting already; try again"
            await _answer(send, 429, busy, headers=[(b"retry-after", b"1")])
            return
        too_large = f"the request is larger than {self.limits.max_mb:g} MB"
        if _content_length(scope) > self.limits.max_bytes:
            await _answer(send, 413, too_large, headers=[(b"connection", b"close")])
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self.waiting += 1
        try:
            await self.app(scope, self._counted(receive), watched)
        except TooLarge:
            if started:
                raise
            await _answer(send, 413, too_large, headers=[(b"connection", b"close")])
        finally:
            self.waiting -= 1

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limits.max_bytes:
                raise TooLarge
            return message

        return counted


def _content_length(scope: Message) -> int:
    given = dict(scope["headers"]).get(b"content-length", b"0")
    return int(given) if given.isdigit() else 0


async def _answer(send: Send, status: int, detail: str, *, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"detail": detail}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
