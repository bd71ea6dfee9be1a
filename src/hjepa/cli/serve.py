"""``hjepa serve`` on the command line."""

import sys
from pathlib import Path

from hjepa.cli.root import app


@app.command
def serve(
    run: str,
    *,
    index: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    pooling: str | None = None,
    level: str | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    max_mb: float = 32.0,
    max_megapixels: float = 32.0,
    max_images: int = 64,
    max_waiting: int = 128,
) -> None:
    """Serve vectors and neighbours of images over HTTP.

    POST image files to /embed for their vectors, or to /search for the most similar images of --index. /docs describes
    all requests, /health says what is served, and /metrics has counters and latencies for Prometheus.

    Parameters
    ----------
    run
        Folder of a run; or any network of timm: a folder with config.json and model.safetensors, or timm:NAME.
    index
        Embedding file of this encoder, written by hjepa embed, or the folder of its parts.
    host
        Address to listen on. The default is reachable from this machine only; the server has no passwords.
    port
        Port to listen on; 0 means any free one.
    pooling
        avg (mean over all patch tokens, the default for a run), last4 (the means of the last four blocks,
        concatenated), grid4 (4x4 average-pooled tokens, concatenated), or, for a timm model, own (the default).
    level
        last (tokens of the last block, the default), the number of a level (0 is the finest), or all.
    precision
        auto, float32, bf16 or fp16.
    batch_size
        Largest number of images per forward pass (default: 16 on a CPU, 128 on a GPU).
    max_mb
        Largest request, in megabytes.
    max_megapixels
        Largest image, in megapixels; read from the header, before the image is decoded.
    max_images
        Largest number of images in a request.
    max_waiting
        Largest number of requests that are received or answered at a time. Others are answered with 429.
    """
    from hjepa.commands.serve import open_to_others
    from hjepa.commands.serve import serve as run_server
    from hjepa.deploy.serve.limits import Limits

    if open_to_others(host):
        print(
            f"hjepa: --host {host} can be reached from other machines, and the server has no passwords", file=sys.stderr
        )
    run_server(
        run,
        index=index,
        host=host,
        port=port,
        pooling=pooling,
        level=level,
        precision=precision,
        batch_size=batch_size,
        limits=Limits(max_mb, max_megapixels, max_images, max_waiting),
        started=lambda address: print(f"serving    {address}\nrequests   {address}/docs", flush=True),
    )
