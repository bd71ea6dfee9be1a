"""How many small files `hjepa check` looks at in a second, and how much memory a million paths take.

Run: python benchmarks/check_speed.py --files 100000
Writes its files into a temporary folder, and removes them. The first run fills the disk cache; the second is measured.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

PATHS = """
import resource
from hjepa.data.name_table import NameTable
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = NameTable(f"class-{n % 1000:04}/a-photograph-of-something-{n:08}.jpg" for n in range(1_000_000))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(f"a million paths: {table.nbytes / 1e6:.0f} MB, {peak / 1024:.0f} MB at the peak of listing them")
"""


def write_images(folder: Path, files: int) -> None:
    """Write small JPEG and PNG files, all different, in folders of 1,000."""
    random = np.random.default_rng(0)
    for number in range(files):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC)
        kind = ("JPEG", "PNG")[number % 2]
        content = io.BytesIO()
        image.save(content, kind)
        place = folder / f"{number // 1000:04}"
        place.mkdir(exist_ok=True)
        (place / f"{number:07}.{kind.lower()}").write_bytes(content.getvalue())


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process and its children; what they share is counted once."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def timed_check(folder: Path) -> tuple[float, float, int]:
    """Return the seconds that the command takes, those of processors that it uses, and the peak of its memory."""
    start, peak, used = time.perf_counter(), 0, cpu_of_children()
    with tempfile.TemporaryFile() as out:
        words = [sys.executable, "-m", "hjepa.cli", "check", str(folder), "--json"]
        with subprocess.Popen(words, stdout=out) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                peak = max(peak, memory_of(watched))
                time.sleep(0.5)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - start, cpu_of_children() - used, peak


def cpu_of_children() -> float:
    """Return the processor time of all processes that have ended, in seconds: it hardly depends on other programs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    files = parser.parse_args().files
    with tempfile.TemporaryDirectory(prefix="hjepa-check-") as name:
        folder = Path(name)
        write_images(folder, files)
        for run in ("first", "second"):
            seconds, processor, peak = timed_check(folder)
            print(
                f"{run}: {files:,} files in {seconds:.1f} s, {files / seconds:,.0f} files/s with "
                f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}); {processor:.1f} s of processors, so "
                f"{files * 2 / processor:,.0f} files/s on 2 free cores; {peak / 1e6:.0f} MB",
                flush=True,
            )
    subprocess.run([sys.executable, "-c", PATHS], check=True)


if __name__ == "__main__":
    main()
