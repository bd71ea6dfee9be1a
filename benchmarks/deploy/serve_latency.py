"""Latency of ``hjepa serve`` with 32 requests in flight: one photograph each, a ViT-S/16 at 224 pixels by default.

    python benchmarks/deploy/serve_latency.py [--in-flight 32] [--requests 512] [--image 224] [--depth 12]

The clients are threads of another process than the server, on the same cores, so they take time from it. The control is
one request at a time.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from embed_speed import write_model
from PIL import Image


def photograph(number: int) -> bytes:
    """Return a JPEG of 640x480 pixels."""
    small = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(held, "JPEG", quality=90)
    return held.getvalue()


def latencies(address: str, requests: int, in_flight: int) -> tuple[np.ndarray, float]:
    """Return the seconds each request took, and those of all together; raises if one is not answered."""
    photographs = [photograph(number) for number in range(16)]

    with httpx.Client(limits=httpx.Limits(max_connections=in_flight), timeout=600) as client:

        def ask(number: int) -> float:
            started = time.perf_counter()
            answer = client.post(f"{address}/embed", files={"files": ("a.jpg", photographs[number % 16])})
            answer.raise_for_status()
            assert answer.json()["vectors"][0]["vector"] is not None
            return time.perf_counter() - started

        with ThreadPoolExecutor(in_flight) as clients:
            started = time.perf_counter()
            found = list(clients.map(ask, range(requests)))
            return np.array(found), time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--image", type=int, default=224, help="side of the encoder's input")
    parser.add_argument("--depth", type=int, default=12, help="blocks of the encoder, 384 wide")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = write_model(
            Path(name) / "model", "vit_small_patch16_224", img_size=options.image, patch_size=16, depth=options.depth
        )
        command = [sys.executable, "-m", "hjepa.cli", "serve", str(model), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            said = server.stdout.readline()
            address = re.search(r"http://\S+", said)[0]
            httpx.get(f"{address}/health", timeout=60).raise_for_status()
            latencies(address, 8, 1)  # warm
            print("| in flight | requests | p50, ms | p99, ms | requests/s |\n|---|---|---|---|---|")
            for in_flight, requests in ((1, max(16, options.requests // 16)), (options.in_flight, options.requests)):
                seconds, together = latencies(address, requests, in_flight)
                p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
                print(f"| {in_flight} | {requests} | {p50:,.0f} | {p99:,.0f} | {requests / together:.1f} |", flush=True)
            print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")
        finally:
            server.terminate()
            server.wait(30)
