"""Exact search: 100 queries against 100,000 vectors of 384 numbers on one core."""

import argparse
import time

import numpy as np
import torch

from hjepa.deploy.similarity import nearest

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    collection = random.standard_normal((options.vectors, options.width), dtype=np.float32)
    queries = random.standard_normal((options.queries, options.width), dtype=np.float32)
    times = []
    for _ in range(options.repeats):
        wall, processor = time.perf_counter(), time.process_time()
        found = nearest(queries, collection, 10)
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    product = time.process_time()
    scores = torch.from_numpy(queries) @ torch.from_numpy(collection).T
    product = time.process_time() - product
    lengths = np.linalg.norm(collection, axis=1)
    assert np.array_equal(found.indices[:, 0], (scores.numpy() / lengths).argmax(1))
    for name, values in zip(("wall-clock", "processor"), zip(*times, strict=True), strict=True):
        print(f"{name} time: fastest {min(values):.3f} s, median {np.median(values):.3f} s")
    print(f"the matrix product alone: {product:.3f} s of processor time")
