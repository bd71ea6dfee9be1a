"""hjepa serve: a real server, asked as clients ask it: well, badly, and by many at once."""

import asyncio
import io
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from commands import call, environment
from deployed import noise, write_encoder, write_images
from PIL import Image

import hjepa
from hjepa.deploy.serve.admission import Admission
from hjepa.deploy.serve.batching import Batcher
from hjepa.deploy.serve.limits import Limits

LIMITS = ("--max-mb", "1", "--max-megapixels", "0.5", "--max-images", "4")


def start_server(run: Path, *words: object) -> tuple[subprocess.Popen[str], str]:
    """Start a server on a free port and return it with its address."""
    command = [sys.executable, "-m", "hjepa.cli", "serve", run, "--port", 0, "--precision", "float32", *words]
    server = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    assert server.stdout is not None
    said = server.stdout.readline() + server.stdout.readline()
    found = re.fullmatch(r"serving +(http://127\.0\.0\.1:\d+)\nrequests +\1/docs\n", said)
    assert found, said + server.stdout.read()
    return server, found[1]


def stop(server: subprocess.Popen[str]) -> None:
    """Tell a server to end; whatever clients sent, it has not said more than a line on what was no HTTP."""
    server.terminate()
    rest, _ = server.communicate(timeout=30)
    assert server.returncode in (0, -signal.SIGTERM) and "Traceback" not in rest, rest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("serve") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("serve") / "photos", 10, size=24)


@pytest.fixture(scope="module")
def index(run, photos, tmp_path_factory):
    file = tmp_path_factory.mktemp("serve") / "vectors.npy"
    hjepa.embed(run, photos, out=file, precision="float32")
    return file


@pytest.fixture(scope="module")
def address(run, index):
    server, address = start_server(run, "--index", index, *LIMITS)
    yield address
    stop(server)


def png(seed: int = 0, size: int = 20) -> bytes:
    """Return the bytes of a picture."""
    held = io.BytesIO()
    Image.fromarray(noise(seed, size)).save(held, "png")
    return held.getvalue()


def post(address: str, *contents: bytes, path: str = "/embed", **arguments: object) -> httpx.Response:
    files = [("files", (f"{number}.png", content)) for number, content in enumerate(contents)]
    return httpx.post(address + path, files=files, timeout=60, **arguments)


def test_vectors_are_those_of_hjepa_embed(address, index, photos):
    known = hjepa.open_embeddings(index)
    answer = post(address, *(Path(path).read_bytes() for path in known.paths[:3]))
    assert answer.status_code == 200
    found = answer.json()
    assert [one["name"] for one in found["vectors"]] == ["0.png", "1.png", "2.png"]
    np.testing.assert_allclose([one["vector"] for one in found["vectors"]], known.vectors[:3], atol=1e-5)
    assert found["model"] == known.metadata["model"]["fingerprint"] == httpx.get(f"{address}/health").json()["model"]


def test_neighbours_are_those_of_the_index(address, index):
    known = hjepa.open_embeddings(index)
    answer = post(address, Path(known.paths[4]).read_bytes(), path="/search?top=3").json()
    (found,) = answer["results"]
    assert found["neighbours"][0]["path"] == known.paths[4] and len(found["neighbours"]) == 3
    unit = known.vectors / np.linalg.norm(known.vectors, axis=1, keepdims=True)
    expected = np.sort(unit @ unit[4])[::-1][:3]
    np.testing.assert_allclose([one["similarity"] for one in found["neighbours"]], expected, atol=1e-5)


def bomb() -> bytes:
    """Return the bytes of a picture that is small on the disk only."""
    held = io.BytesIO()
    Image.new("L", (2000, 1000)).save(held, "png")
    return held.getvalue()


UNREADABLE = {
    "a text file": (b"hello", r"^not an image$"),
    "an empty file": (b"", r"^not an image$"),
    "a damaged image": (png(1)[:300], r"^cannot decode"),
    "many pixels in a small file": (bomb(), r"^2\.0 megapixels, and 0\.5 are allowed$"),
}


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize(
    ("path", "key", "field"), [("/embed", "vectors", "vector"), ("/search", "results", "neighbours")]
)
def test_a_file_that_cannot_be_read_has_its_reason_and_the_others_their_vectors(name, path, key, field, address):
    content, expected = UNREADABLE[name]
    answer = post(address, png(), content, png(2), path=path)
    assert answer.status_code == 200
    first, bad, last = answer.json()[key]
    assert re.search(expected, bad["error"]) and bad[field] is None and bad["name"] == "1.png"
    assert first["error"] is last["error"] is None and first[field] and last[field]


REFUSED = {
    "too many images": ([png()] * 5, 422, r"at most 4 items"),
    "too many bytes": ([bytes(1_100_000)], 413, r"larger than 1 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_and_why(name, address):
    contents, status, expected = REFUSED[name]
    answer = post(address, *contents)
    assert answer.status_code == status
    assert re.search(expected, answer.json()["detail"]), answer.text
    assert post(address, png()).status_code == 200  # and the server goes on


def test_other_ways_to_ask_wrongly(address):
    assert httpx.post(f"{address}/embed").status_code == 422
    assert post(address, png(), path="/search?top=0").status_code == 422
    assert httpx.get(f"{address}/embed").status_code == 405
    assert httpx.get(f"{address}/nothing").status_code == 404
    body = httpx.post(f"{address}/embed", content=b"--x\r\n", headers={"content-type": "multipart/form-data"})
    assert body.status_code == 400 and isinstance(body.json()["detail"], str)


def test_a_body_without_a_length_is_cut_off_at_the_limit(address):
    sent = 0

    def endless():
        nonlocal sent
        yield b"--x\r\nContent-Disposition: form-data; name=files; filename=a\r\n\r\n"
        for _ in range(400):
            sent += 100_000
            yield bytes(100_000)

    kind = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(f"{address}/embed", content=endless(), headers=kind, timeout=60)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):  # it hung up on us
        pass
    assert sent < 40_000_000
    assert post(address, png()).status_code == 200


def ask_many(address: str, count: int, threads: int) -> Counter[int]:
    """Send ``count`` requests, every tenth of them bad; check each answer against its image."""
    single = {seed: post(address, png(seed)).json()["vectors"][0]["vector"] for seed in range(5)}

    def ask(number: int) -> int:
        bad = number % 10 == 9
        answer = post(address, b"no image" if bad else png(number % 5))
        if answer.status_code == 200:
            (found,) = answer.json()["vectors"]
            if bad:
                assert found["error"] == "not an image"
            else:
                np.testing.assert_allclose(found["vector"], single[number % 5], atol=1e-5)
        else:
            assert answer.status_code == 429 and answer.json()["detail"]
        return answer.status_code

    with ThreadPoolExecutor(threads) as pool:
        return Counter(pool.map(ask, range(count)))


def test_parallel_requests_each_get_their_own_answer(address):
    before = metrics(address)
    assert ask_many(address, 60, 16) == {200: 60}
    after = metrics(address)
    key = 'hjepa_requests_total{path="/embed",status="%d"}'
    assert after[key % 200] - before.get(key % 200, 0) == 60 + 5
    assert after["hjepa_images_total"] - before["hjepa_images_total"] == 59
    assert after["hjepa_batches_total"] - before["hjepa_batches_total"] < 59  # some passed together


@pytest.mark.slow
def test_a_thousand_parallel_requests_none_is_lost(run):
    server, address = start_server(run, "--max-waiting", 64)
    statuses = ask_many(address, 1000, 200)
    assert sum(statuses.values()) == 1000 and statuses.keys() <= {200, 429} and statuses[200] > 100
    assert httpx.get(f"{address}/health").json()["status"] == "ok"
    stop(server)


def metrics(address: str) -> dict[str, float]:
    lines = [line for line in httpx.get(f"{address}/metrics").text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_unknown_paths_make_no_time_series_of_their_own(address):
    for number in range(3):
        httpx.get(f"{address}/secret-{number}")
    assert not [name for name in metrics(address) if "secret" in name]


def test_requests_beyond_the_limit_are_sent_away_and_others_answered():
    """Three requests while one may wait: the middleware alone, with an application that waits to be let go."""

    async def story() -> list[int]:
        go, statuses = asyncio.Event(), []

        async def application(_scope, _receive, send):
            await go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message):
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        admission = Admission(application, Limits(max_waiting=1))
        scope = {"type": "http", "method": "POST", "headers": []}
        first = asyncio.create_task(admission(scope, None, send))
        await asyncio.sleep(0)
        await admission(scope, None, send)
        go.set()
        await first
        await admission(scope, None, send)
        return statuses

    assert asyncio.run(story()) == [429, 200, 200]


def test_a_batch_that_fails_fails_its_own_requests_only():
    def encode(images: torch.Tensor) -> np.ndarray:
        if (images < 0).any():
            raise ValueError("negative")
        return images.flatten(1).sum(1, keepdim=True).numpy()

    batcher = Batcher(encode, batch_size=1)
    futures = [batcher.submit(torch.full((3, 2, 2), float(value))) for value in (1, -1, 2)]
    batcher.close()
    assert float(futures[0].result()[0]) == 12 and float(futures[2].result()[0]) == 24
    with pytest.raises(ValueError, match="negative"):
        futures[1].result()


def test_batches_are_full_under_load_and_end_with_what_is_waiting():
    sizes = []

    def encode(images: torch.Tensor) -> np.ndarray:
        sizes.append(len(images))
        time.sleep(0.02)
        return images.flatten(1).numpy()

    batcher = Batcher(encode, batch_size=4)
    futures = [batcher.submit(torch.full((1, 1, 1), float(value))) for value in range(21)]
    batcher.close()
    assert [float(one.result()[0]) for one in futures] == list(range(21))
    assert sum(sizes) == 21 and max(sizes) == 4 and len(sizes) <= 8


def test_the_port_is_taken(run):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        done = call("serve", run, "--port", port)
    assert done.returncode == 2 and re.search(rf"--port {port}: .*in use", done.stderr) and done.stderr.count("\n") == 1


REFUSALS = {
    "no run": (["serve", "nothing"], r"nothing: not a folder"),
    "limits": (["serve", "RUN", "--max-images", "0"], r"--max-images 0: must be larger than 0"),
    "patches": (["serve", "RUN", "--pooling", "patches"], r"--pooling avg"),
    "pooling of the index": (["serve", "RUN", "--index", "INDEX", "--pooling", "avg"], r"remove --pooling"),
    "another model": (["serve", "OTHER", "--index", "INDEX"], r"another model"),
    "no address": (["serve", "RUN", "--host", "no.such.host.invalid"], r"--host no\.such\.host\.invalid"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_served_is_refused_in_one_line(name, run, index, tmp_path):
    words, expected = REFUSALS[name]
    other = write_encoder(tmp_path / "other", seed=1)
    places = {"RUN": run, "INDEX": index, "OTHER": other}
    done = call(*(places.get(word, word) for word in words))
    assert done.returncode == 2 and re.search(expected, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_its_own_description_finds_no_fault_in_it(address, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--max-examples", "25"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
