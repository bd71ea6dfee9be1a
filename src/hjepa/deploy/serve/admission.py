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
        body, started = _Body(receive, self.limits.max_bytes), False

        async def watched(message: Message) -> None:
            nonlocal started
            if body.too_large and not started:
                return  # whatever the application makes of a body that was cut off
            started = True
            await send(message)

        self.waiting += 1
        try:
            await self.app(scope, body.receive, watched)
        except TooLarge:
            pass
        finally:
            self.waiting -= 1
        if body.too_large and not started:
            await _answer(send, 413, too_large, headers=[(b"connection", b"close")])


class _Body:
    """The body of a request, cut off at a number of bytes."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive, self._left = receive, max_bytes

    @property
    def too_large(self) -> bool:
        return self._left < 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self.too_large:
            raise TooLarge
        return message


def _content_length(scope: Message) -> int:
    given = dict(scope["headers"]).get(b"content-length", b"0")
    return int(given) if given.isdigit() else 0


async def _answer(send: Send, status: int, detail: str, *, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"detail": detail}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
