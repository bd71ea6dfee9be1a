"""A killed embed continues: the file is that of an undisturbed one, bit for bit, and no batch is done twice."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import call
from deployed import write_encoder, write_images
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa import open_embeddings
from hjepa.commands.embed import EmbedOptions, write_embeddings
from hjepa.deploy.embed.npy import store_paths
from hjepa.deploy.embed.plan import Part, Plan
from hjepa.deploy.embed.store import Row, Store

COUNT, BATCH = 40, 4
WORDS = ("--batch-size", BATCH, "--precision", "float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("deploy") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("deploy") / "photos", COUNT)
    (folder / "0011.png").write_bytes(b"no image")
    return folder


def content(out: Path) -> dict[str, bytes]:
    """Return the file and what lies beside it."""
    return {path.name: path.read_bytes() for path in out.parent.iterdir()}


def embed_slowly(run: Path, photos: Path, out: Path, ready: object, seconds: float) -> None:
    """Embed with a pause after each batch; ``ready`` counts the batches."""

    def pause(_progress: object) -> None:
        ready.release()
        time.sleep(seconds)

    options = EmbedOptions(batch_size=BATCH, precision="float32", workers=1, progress=pause)
    write_embeddings(run, photos, out, options)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_a_killed_process_is_continued(run, photos, tmp_path, ending):
    undisturbed, out = tmp_path / "a" / f"v.{ending}", tmp_path / "b" / f"v.{ending}"
    write_embeddings(run, photos, undisturbed, EmbedOptions(batch_size=BATCH, precision="float32"))
    forks = multiprocessing.get_context("fork")
    for batches in (1, 3):
        ready = forks.Semaphore(0)
        child = forks.Process(target=embed_slowly, args=(run, photos, out, ready, 0.05))
        child.start()
        for _ in range(batches):
            assert ready.acquire(timeout=60)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        refused = call("embed", run, photos, "--out", out, "--pooling", "grid4", *WORDS)
        assert refused.returncode == 2 and "pooling avg, now grid4" in refused.stderr
    done = call("embed", run, photos, "--out", out, *WORDS, "--json")
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(done.stdout)["embedded"] <= COUNT - 4 * BATCH
    assert content(out) == content(undisturbed)


def test_what_is_not_complete_is_not_opened(run, photos, tmp_path):
    out = tmp_path / "v.npy"

    def stop(progress: object) -> None:
        if progress.done >= 2 * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_embeddings(run, photos, out, EmbedOptions(batch_size=BATCH, progress=stop))
    with pytest.raises(ValueError, match=r"not complete; run the same hjepa embed again"):
        open_embeddings(out)
    with pytest.raises(ValueError):  # nor by numpy, which would otherwise see zeros
        np.load(out, mmap_mode="r")


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 23), levels=st.integers(1, 3), done=st.integers(0, 23), seed=st.integers(0, 1000),
    torn=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
def test_files_cut_anywhere_are_continued(tmp_path_factory, images, levels, done, seed, torn):
    """After a crash of the machine, either file may have lost its end at any byte."""
    folder = tmp_path_factory.mktemp("cut")
    shapes = {str(level): [3] for level in range(levels)}
    plan = Plan({"shapes": shapes, "part": {"number": 0, "of": 1, "first": 0, "count": images}, "batch_size": 4})
    vectors = np.random.default_rng(seed).random((images, 3 * levels)).astype(np.float32)

    def write(store: Store, until: int) -> int:
        with store.opened() as opened:
            first = opened.done
            for batch in plan.part.batches(4, opened.done):
                if batch.start >= until:
                    break
                names = [f'{n}, "{n}"\\x0a.png' for n in batch]
                opened.append(vectors[batch.start : batch.stop], [Row(n, k, "0", "") for n in names for k in shapes])
        return first

    whole, cut = (Store(store_paths(folder / f"{name}.npy"), plan) for name in ("whole", "cut"))
    assert write(whole, images) == 0
    write(cut, done)
    for path, fraction in zip((cut.paths.vectors, cut.paths.rows), torn, strict=True):
        os.truncate(path, int(path.stat().st_size * fraction))
    if random.Random(seed).random() < 0.5:  # a torn line that looks whole is cut by the length of the vectors
        with cut.paths.rows.open("ab") as file:
            file.write(b"half a li")
    assert write(cut, images) <= min(done + 3, images)
    assert cut.paths.vectors.read_bytes() == whole.paths.vectors.read_bytes()
    assert cut.paths.rows.read_bytes() == whole.paths.rows.read_bytes()


@given(images=st.integers(0, 300), batch=st.integers(1, 17), processes=st.integers(1, 9))
def test_parts_are_all_images_in_whole_batches(images, batch, processes):
    parts = [Part.of_rank(rank, processes, images, batch) for rank in range(processes)]
    ours = [each for part in parts for each in part.batches(batch, 0)]
    assert ours == [range(start, min(start + batch, images)) for start in range(0, images, batch)]
    assert sum(part.count for part in parts) == images


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_ten_kills_at_random_moments(run, tmp_path):
    photos = write_images(tmp_path / "photos", 600)
    undisturbed, out = tmp_path / "a" / "v.npy", tmp_path / "b" / "v.npy"
    write_embeddings(run, photos, undisturbed, EmbedOptions(batch_size=BATCH, precision="float32"))
    rows, random_moments, done = out.with_name("v.npy.rows.csv"), random.Random(0), [0]
    forks = multiprocessing.get_context("fork")
    for _ in range(10):
        ready = forks.Semaphore(0)
        child = forks.Process(target=embed_slowly, args=(run, photos, out, ready, 0.0))
        child.start()
        assert ready.acquire(timeout=60)
        time.sleep(random_moments.random() * 0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL, "the kill came after the end"
        done.append((rows.read_bytes().count(b"\n") - 1) // BATCH * BATCH)
    assert done == sorted(done) and done[1] > 0 and done[-1] < 600
    last = call("embed", run, photos, "--out", out, *WORDS, "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["embedded"] == 600 - done[-1]
    assert content(out) == content(undisturbed)
