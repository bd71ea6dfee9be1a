"""Time to draw the embedded data set, on one core.

    OMP_NUM_THREADS=1 python benchmarks/scenes_speed.py

Prints microseconds per image, the fastest and the median of the repeats: the fastest is what the code
needs, the median what a machine shared with other work gives.
"""

import time

import numpy as np

from hjepa.data.scenes import Scenes


def microseconds(scenes: Scenes, batch: int, repeats: int) -> list[float]:
    """Return the time per image of each repeat, each with other indices."""
    order = np.random.default_rng(0).permutation(len(scenes))
    times = []
    for repeat in range(repeats):
        indices = order[repeat * batch : (repeat + 1) * batch]
        start = time.process_time()
        scenes.batch(indices)
        times.append((time.process_time() - start) / batch * 1e6)
    return times


def main() -> None:
    print(f"{'size':>6} {'batch':>6} {'fastest':>9} {'median':>9}   microseconds per image")
    for size, batch in ((64, 128), (64, 32), (64, 1), (32, 128), (128, 128)):
        times = microseconds(Scenes(size=size), batch, repeats=50)
        print(f"{size:>6} {batch:>6} {min(times):>9.0f} {np.median(times):>9.0f}")
    start = time.process_time()
    labels = Scenes().labels
    print(f"labels of {len(labels['shape'])} images: {(time.process_time() - start) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
