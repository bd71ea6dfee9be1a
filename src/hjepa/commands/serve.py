"""``hjepa serve``: vectors and neighbours of images over HTTP."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

from hjepa.commands.embed import PRECISIONS, embed_device, run_path
from hjepa.deploy.collection import Collection
from hjepa.deploy.embeddings import open_embeddings
from hjepa.deploy.encoders import PATCHES, open_encoder
from hjepa.deploy.serve.limits import Limits
from hjepa.errors import UserError
from hjepa.files import shown
from hjepa.runs.run import Run
from hjepa.setup.machine import choose_precision


def serve(
    run: Run | str | os.PathLike[str],
    *,
    index: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    pooling: str | None = None,
    level: str | int | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    limits: Limits | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the encoder of a run, or of timm, until the process is told to stop.

    With ``index``, an embedding file of this encoder, its images can be searched; pooling and level are then those of
    the file. ``started`` is called with the address once requests are answered. Raises UserError in one line.
    """
    try:
        import uvicorn

        from hjepa.deploy.serve.application import create_app
        from hjepa.deploy.serve.service import Service
    except ImportError as error:
        raise UserError(f"hjepa serve needs {error.name}: pip install 'hjepa[serve]'") from None
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: choose from {', '.join(PRECISIONS)}")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    device = embed_device()
    encoder = open_encoder(run_path(run), device)
    known = None
    if index is not None:
        if pooling is not None or level is not None:
            raise UserError(f"--index {shown(index)}: decides on pooling and level; remove --pooling and --level")
        known = Collection(open_embeddings(index), encoder, device, None)  # refuses vectors of another encoder
        pooling, level = (known.embeddings.metadata[name] for name in ("pooling", "level"))
    pooling = encoder.choose_pooling(pooling)
    if pooling == PATCHES:
        raise UserError("one vector per patch cannot be served or searched: use --pooling avg, last4 or grid4")
    listening = _listen(host, port)
    with listening:
        service = Service(
            encoder,
            device,
            pooling=pooling,
            level="last" if level is None else str(level),
            precision=choose_precision(precision, device)[0],
            batch_size=batch_size or (16 if device.type == "cpu" else 128),
            limits=limits or Limits(),
            index=known,
        )
        _, application = create_app(service)
        config = uvicorn.Config(application, log_level="error", timeout_keep_alive=10, lifespan="on")
        server = _Server.of(uvicorn, config, lambda: started(_address(listening)))
        server.run(sockets=[listening])


class _Server:
    """A uvicorn server that tells when it answers."""

    @staticmethod
    def of(uvicorn: Any, config: Any, started: Callable[[], None]) -> Any:
        class Server(uvicorn.Server):  # type: ignore[misc]
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets=sockets)
                if self.started:
                    started()

        return Server(config)


def open_to_others(host: str) -> bool:
    """Return whether other machines can reach a server on this address."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises UserError if the address cannot be had."""
    with contextlib.ExitStack() as stack:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "not a valid address"
            raise UserError(
                f"--host {host} --port {port}: {reason}; choose another --port, or 0 for any that is free"
            ) from None
        stack.pop_all()
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
