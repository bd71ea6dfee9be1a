"""Every kind of DATA through the same tests: the same images, labels, fingerprints and processes."""

import io
import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import hjepa
from conftest import tiny, tiny_options
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hjepa.data.loader import MicroBatchDataset, RankShard, micro_batches
from hjepa.data.name_table import NameTable
from hjepa.data.sources import FileSource, open_source
from hjepa.errors import UserError
from hjepa.setup.build import build

NAMES = [f"{kind}/{number}.png" for kind in ("bird", "cat") for number in range(4)]


def pixels(number: int) -> np.ndarray:
    """Return a coarse pattern, different for each number."""
    random = np.random.default_rng(number)
    return random.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)


def encoded(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "PNG")
    return file.getvalue()


def folder(tmp: Path, first: int) -> str:
    for number, name in enumerate(NAMES, first):
        (tmp / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp / "photos" / name).write_bytes(encoded(number))
    return str(tmp / "photos")


def csv_list(tmp: Path, first: int) -> str:
    folder(tmp, first)
    rows = "".join(f"photos/{name},{name.split('/')[0]}\n" for name in NAMES)
    (tmp / "list.csv").write_text(f"path,label\n{rows}")
    return str(tmp / "list.csv")


def parquet_list(tmp: Path, first: int) -> str:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder(tmp, first)
    columns = {"file": [f"photos/{name}" for name in NAMES], "label": [name.split("/")[0] for name in NAMES]}
    parquet.write_table(arrow.table(columns), tmp / "list.parquet")
    return f"{tmp / 'list.parquet'}:file"


def zipped(tmp: Path, first: int, *, method: int = zipfile.ZIP_STORED) -> str:
    """Write an archive of another order than that of names, in one folder with things beside the images."""
    with zipfile.ZipFile(tmp / "photos.zip", "w", method) as archive:
        archive.writestr("photos/readme.md", "not an image")
        archive.writestr("__MACOSX/photos/bird/._0.png", b"nothing")
        for number, name in reversed(list(enumerate(NAMES, first))):
            archive.writestr(f"photos/{name}", encoded(number))
    return str(tmp / "photos.zip")


def deflated(tmp: Path, first: int) -> str:
    return zipped(tmp, first, method=zipfile.ZIP_DEFLATED)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def tarred(tmp: Path, first: int) -> str:
    with tarfile.open(tmp / "photos.tar", "w") as archive:
        for number, name in reversed(list(enumerate(NAMES, first))):
            add(archive, f"./{name}", encoded(number))
    return str(tmp / "photos.tar")


def shards(tmp: Path, first: int) -> str:
    for shard in range(2):
        with tarfile.open(tmp / f"s-{shard:03}.tar", "w") as archive:
            for number in range(shard * 4, shard * 4 + 4):
                add(archive, f"{number:04}.cls", ["bird", "cat"][shard].encode())
                add(archive, f"{number:04}.png", encoded(first + number))
                add(archive, f"{number:04}.json", b"{}")
    return f"wds:{tmp}/s-{{000..001}}.tar"


def saved_by_datasets(tmp: Path, first: int) -> str:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["bird", "cat"])})
    rows = {
        "image": [{"bytes": encoded(first + number), "path": None} for number in range(8)],
        "label": [number // 4 for number in range(8)],
    }
    shutil.rmtree(tmp / "saved", ignore_errors=True)
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp / "saved"))
    return f"hf:{tmp / 'saved'}"


def npz(tmp: Path, first: int) -> str:
    images = np.stack([pixels(first + number) for number in range(8)])
    np.savez(tmp / "a.npz", train_images=images, train_labels=np.arange(8) // 4, class_names=["bird", "cat"])
    return str(tmp / "a.npz")


def npy(tmp: Path, first: int) -> str:
    np.save(tmp / "a.npy", np.stack([pixels(first + number) for number in range(8)]))
    return str(tmp / "a.npy")


class Stream:
    """An iterable without a length."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self):
        return ((Image.fromarray(pixels(self.first + number)), number // 4) for number in range(8))


def stream(_tmp: Path, first: int) -> Stream:
    return Stream(first)


KINDS: list[Callable] = [
    folder, csv_list, parquet_list, zipped, deflated, tarred, shards, saved_by_datasets, npz, npy, stream,
]  # fmt: skip
each_kind = pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)


@each_kind
def test_the_same_images_and_labels_in_the_same_order(tmp_path, make):
    source = open_source(make(tmp_path, 0))
    assert len(source) == 8 and source.channels == 3
    assert all(np.array_equal(source[number], pixels(number)) for number in range(8))
    if make is not npy:  # an array has no room for labels
        assert source.labels["label"].tolist() == [0] * 4 + [1] * 4
        assert source.classes == ([] if make is stream else ["bird", "cat"])


@each_kind
def test_the_fingerprint_is_that_of_the_images(tmp_path, make):
    first = open_source(make(tmp_path, 0)).fingerprint()
    assert open_source(make(tmp_path, 0)).fingerprint() == first
    assert open_source(make(tmp_path, 100)).fingerprint() != first


def all_of(source) -> list[np.ndarray]:
    return [source[number] for number in range(len(source))]


@each_kind
def test_other_processes_read_the_same(tmp_path, make):
    source = open_source(make(tmp_path, 0))
    _ = source[0]  # so that whatever is opened is open before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for images in pool.map(all_of, [source] * 2):
            assert all(np.array_equal(image, pixels(number)) for number, image in enumerate(images))
    sent = pickle.dumps(source)
    assert np.array_equal(pickle.loads(sent)[7], pixels(7))


@each_kind
def test_training_resumes_in_the_middle_and_workers_change_nothing(tmp_path, make):
    source = open_source(make(tmp_path, 0))
    parts = build(tiny(), source)
    data = MicroBatchDataset(source, parts.batches.images.augment, seed=0, batch_size=4)

    def batches(start: int, workers: int) -> list[np.ndarray]:
        found = micro_batches(data, RankShard(4), first_attempt=start, workers=workers)
        taken = [next(found).numpy() for _ in range(3)]
        found.close()
        return taken

    one, other = batches(0, 0), batches(1, 1)
    assert np.array_equal(one[1], other[0]) and np.array_equal(one[2], other[1])


@pytest.mark.parametrize("make", [zipped, deflated, tarred, shards, saved_by_datasets, npy], ids=lambda m: m.__name__)
@pytest.mark.slow
def test_a_stranger_trains_and_probes(tmp_path, make):
    """The whole way, with the command."""
    if make is npy:
        done = hjepa("pretrain", npy(tmp_path, 0), "--out", tmp_path / "run", *tiny_options(train__length=2))
        assert done.returncode == 0, done.stderr
        return
    spec = make(tmp_path, 0)
    done = hjepa("pretrain", spec, "--out", tmp_path / "run", *tiny_options(train__length=2, data__workers=1))
    assert done.returncode == 0, done.stdout + done.stderr
    probed = hjepa("evaluate", tmp_path / "run", "--train", spec, "--test", spec, "--protocols", "knn", "--json")
    assert probed.returncode == 0, probed.stderr
    assert json.loads(probed.stdout)["results"][0]["n_train"] == 8


# ---- archives ------------------------------------------------------------------------------------


def refused(data: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as met:
        all_of(open_source(data))
    assert "\n" not in str(met.value) and len(str(met.value)) < 400


def test_members_that_lead_out_of_an_archive_are_left_out(tmp_path):
    (tmp_path / "secret.png").write_bytes(encoded(5))
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        add(archive, "../secret.png", encoded(1))
        add(archive, "/etc/passwd.png", encoded(1))
        for kind, target in ((tarfile.SYMTYPE, "../secret.png"), (tarfile.LNKTYPE, "good.png")):
            link = tarfile.TarInfo(f"link{kind.decode()}.png")
            link.type, link.linkname = kind, target
            archive.addfile(link)
        add(archive, "good.png", encoded(2))
    source = open_source(tmp_path / "in" / "a.tar")
    assert [str(path) for path in source.paths] == [f"{tmp_path}/in/a.tar/good.png"]
    told = source.notices()
    assert any("2 members" in text and "lead out" in text for text in told) and any("2 members" in t for t in told[1:])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../secret.png", encoded(1))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../secret.png")
        archive.writestr("good.png", encoded(2))
    assert [path.suffix for path in open_source(tmp_path / "a.zip").paths] == [".png"]
    assert [text.rpartition("left out: ")[2] for text in open_source(tmp_path / "a.zip").notices()] == [
        "names that lead out of the archive",
        "links",
    ]


def test_damaged_archives_end_in_one_line(tmp_path):
    for make, name in ((zipped, "photos.zip"), (tarred, "photos.tar")):
        whole = Path(make(tmp_path, 0)).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2 - 300])
        refused(tmp_path / name, rf"{name} cannot be read as a \.(zip|tar) archive: it is damaged")
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, rf"{name} cannot be read")
    (tmp_path / "photos.tar").write_bytes(whole[: 3 * 1024])  # between two members
    told = open_source(tmp_path / "photos.tar")
    assert len(told) == 3 and any("no end mark" in text for text in told.notices())
    (tmp_path / "photos.tar").write_bytes(whole)
    assert open_source(tmp_path / "photos.tar").notices() == []


def test_a_damaged_member_is_named_and_can_be_skipped(tmp_path):
    file = Path(deflated(tmp_path, 0))
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo("photos/cat/1.png")
    raw = bytearray(file.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    raw[start + 40 : start + 60] = bytes(20)
    file.write_bytes(raw)
    refused(file, r"photos\.zip/photos/cat/1\.png: the archive is damaged here")
    source = open_source(file)
    parts = build(tiny(data={"max_bad": "20%"}), source)
    found = parts.batches(0)
    _ = [next(found) for _ in range(3)]
    assert [image.name for image in parts.batches.images.bad] == [f"{file}/photos/cat/1.png"]


def test_a_wrong_check_sum_is_seen(tmp_path):
    file = Path(deflated(tmp_path, 0))
    raw = bytearray(file.read_bytes())
    entry = raw.rfind(b"photos/cat/1.png") - 46  # in the list of contents
    raw[entry + 16] ^= 1
    file.write_bytes(raw)
    refused(file, r"photos/cat/1\.png: the archive is damaged here")


def test_an_encrypted_zip_is_refused(tmp_path):
    file = Path(zipped(tmp_path, 0))
    raw = bytearray(file.read_bytes())
    place = raw.find(b"PK\1\2", raw.find(b"PK\1\2") + 4)  # the second entry of the list of contents
    while raw[place + 46 : place + 57] != b"photos/bird":
        place = raw.find(b"PK\1\2", place + 4)
    raw[place + 8] |= 1
    file.write_bytes(raw)
    refused(file, r"photos\.zip is encrypted .*without a password")


@pytest.mark.parametrize(("method", "said"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")])
def test_a_zip_of_rare_compression_is_refused(tmp_path, method, said):
    refused(zipped(tmp_path, 0, method=method), rf"is compressed by {said} .*zip -0")


@pytest.mark.parametrize("name", ["photos.tar.gz", "photos.tgz", "disguised.tar"])
def test_a_compressed_tar_says_what_to_do(tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        add(archive, "a.png", encoded(0))
    refused(tmp_path / name, r"is a compressed \.tar, .*unpack it .*tar -xf")


def test_an_archive_without_images_names_what_it_has(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.docx", b"text")
    refused(tmp_path / "a.zip", r"a\.zip contains no images \(1 \.docx\)")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    refused(tmp_path / "a.tar", r"a\.tar contains no images \(it is empty\)")


def test_a_single_folder_in_an_archive_is_no_class_if_it_has_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        for number in range(2):
            archive.writestr(f"photos/{number}.png", encoded(number))
    assert open_source(tmp_path / "flat.zip").classes == ["photos"]  # as the folder that holds photos
    assert open_source(zipped(tmp_path, 0)).classes == ["bird", "cat"]


names_within = st.lists(
    st.tuples(st.sampled_from(["a", "a-b", "a.b", "B", "é"]), st.text("ab-.", min_size=1, max_size=3)),
    unique=True, min_size=1, max_size=6,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(chosen=names_within)
def test_an_archive_has_the_order_and_classes_of_its_folder(tmp_path_factory, chosen):
    tmp = tmp_path_factory.mktemp("order")
    names = [f"{parent}/{name}x.png" for parent, name in chosen if not name.startswith(".")]
    if not names:
        return
    for number, name in enumerate(names):
        (tmp / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp / "root" / name).write_bytes(encoded(number))
    with zipfile.ZipFile(tmp / "a.zip", "w") as zip_file, tarfile.open(tmp / "a.tar", "w") as tar_file:
        for number, name in enumerate(names):
            zip_file.writestr(name, encoded(number))
            add(tar_file, name, encoded(number))
    root = open_source(tmp / "root")
    for archive in ("a.zip", "a.tar"):
        source = open_source(tmp / archive)
        assert [str(path).removeprefix(f"{tmp}/{archive}/") for path in source.paths] == list(root.paths.names)
        assert source.classes == root.classes and source.labels["label"].tolist() == root.labels["label"].tolist()
    assert list(root.paths) == sorted(root.paths)


# ---- shards, lists, datasets, streams, arrays ----------------------------------------------------


def test_shards_that_are_missing_or_far_away(tmp_path):
    shards(tmp_path, 0)
    refused(f"wds:{tmp_path}/s-{{000..003}}.tar", r"s-002\.tar does not exist")
    refused(f"wds:{tmp_path}/none-*.tar", "matches no file")
    refused("wds:https://example.org/s-{000..099}.tar", "download them first")
    refused(f"wds:{tmp_path}/s-{{9..3}}.tar", r"counts down; write \{3\.\.9\}")
    assert len(open_source(f"wds:{tmp_path}/s-*.tar")) == 8
    assert open_source(f"{tmp_path}/s-000.tar").unlabelled.startswith("use wds:")


def test_a_list_whose_column_has_another_name(tmp_path):
    parquet_list(tmp_path, 0)
    refused(tmp_path / "list.parquet", r"has no column 'path' .*\(file, label\).*list\.parquet:COLUMN.*hf:")
    refused(f"{tmp_path / 'list.parquet'}:nothing", r"no column 'nothing': its columns are file, label")
    csv_list(tmp_path, 0)
    (tmp_path / "other.csv").write_text((tmp_path / "list.csv").read_text().replace("path", "file", 1))
    refused(tmp_path / "other.csv", r"other\.csv:COLUMN")
    assert len(open_source(f"{tmp_path / 'other.csv'}:file")) == 8
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    refused(tmp_path / "damaged.parquet", "cannot be read as a Parquet file")


def test_a_parquet_list_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "list.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(tmp_path / "list.parquet", r"pip install 'hjepa\[parquet\]'")


def test_hugging_face_in_folders_and_splits(tmp_path):
    pytest.importorskip("datasets")
    saved_by_datasets(tmp_path, 0)
    refused(f"hf:{tmp_path / 'saved'}:test", r"no split 'test': it has a single one")
    refused(f"hf:{tmp_path / 'nothing-here'}", r"neither a folder here nor a name of the hub")
    refused("hf:", r"hf:: nothing is neither a folder")


def test_hugging_face_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:somebody/photos", r"hf:somebody/photos needs .*pip install 'hjepa\[hf\]'")


def test_a_dataset_of_hugging_face_in_python(tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_from_disk(saved_by_datasets(tmp_path, 0).removeprefix("hf:"))
    source = open_source(loaded)
    assert isinstance(source, FileSource) and source.classes == ["bird", "cat"]
    streamed = open_source(loaded.to_iterable_dataset())
    assert all(np.array_equal(a, b) for a, b in zip(all_of(source), all_of(streamed), strict=True))
    assert streamed.labels["label"].tolist() == source.labels["label"].tolist()


def test_an_iterable_without_images(tmp_path):
    refused(iter(()), "yields no images")
    refused(iter([{"depth": 3}]), r"dicts with depth: name the image 'image'")


@pytest.mark.parametrize("kind", [np.uint16, np.float32, np.int16, np.float64, ">u2"])
def test_arrays_of_more_than_8_bits_have_one_range(tmp_path, kind):
    deep = (np.stack([pixels(number) for number in range(8)]).astype(np.int64) * 100 + 50).astype(kind)
    np.save(tmp_path / "deep.npy", deep)
    for data in (deep, tmp_path / "deep.npy"):
        source = open_source(data)
        parts = build(tiny(data={"mean": None, "std": None}), source)
        low, high = parts.resolved.config.data.value_range
        assert 50 <= low < 2000 and 23000 < high <= 25550
        batch = parts.batches.images.source.batch([3])
        assert batch.dtype == (np.uint16 if np.dtype(kind) in (np.uint16, np.dtype(">u2")) else np.float32)
        assert np.array_equal(batch[0], deep[3])
        images = next(parts.batches(0))[0].images
        assert images.dtype.is_floating_point and images.std() > 0.3


def test_a_npy_file_is_not_read_into_memory_and_holds_no_pickle(tmp_path):
    source = open_source(npy(tmp_path, 0))
    assert isinstance(source.images, np.memmap) and len(pickle.dumps(source)) < 1000
    np.save(tmp_path / "odd.npy", np.array([{}], dtype=object))
    refused(tmp_path / "odd.npy", r"odd\.npy cannot be read as a \.npy file of numbers")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:300])
    refused(tmp_path / "cut.npy", "cannot be read")


class Rows:
    """A map-style Dataset of dicts."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict:
        return {"image": Image.fromarray(pixels(index)), "label": index // 4}


def test_a_dataset_of_dicts():
    assert all(np.array_equal(image, pixels(number)) for number, image in enumerate(all_of(open_source(Rows()))))


def torchvision_files(monkeypatch, name: str) -> np.ndarray:
    """Write a dataset as torchvision leaves it in ./data, without its check sums; return the first split's images."""
    from torchvision.datasets import cifar, stl10, svhn

    images = np.stack([pixels(number) for number in range(8)]).repeat(2, axis=1).repeat(2, axis=2)
    labels = np.arange(8) // 4
    for module in (cifar, stl10, svhn):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)
    rows = images.transpose(0, 3, 1, 2).reshape(8, -1)
    Path("data").mkdir()
    if name == "cifar100":
        folder = Path("data/cifar-100-python")
        folder.mkdir()
        for split in ("train", "test"):
            (folder / split).write_bytes(pickle.dumps({"data": rows, "fine_labels": labels.tolist()}))
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["bird", "cat"]}))
        return images
    if name == "svhn":
        from scipy.io import savemat

        savemat("data/train_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None] + 1})
        return images
    images = images.repeat(3, axis=1).repeat(3, axis=2)
    folder = Path("data/stl10_binary")
    folder.mkdir()
    for file in ("train_X", "test_X", "unlabeled_X"):
        images.transpose(0, 3, 2, 1).tofile(folder / f"{file}.bin")
    for file in ("train_y", "test_y"):
        (labels + 1).astype(np.uint8).tofile(folder / f"{file}.bin")
    (folder / "class_names.txt").write_text("bird\ncat\n")
    return images


@pytest.mark.parametrize("name", ["cifar100", "stl10", "svhn"])
def test_datasets_of_torchvision_are_found_in_data(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    images = torchvision_files(monkeypatch, name)
    source = open_source(name)
    assert source.name == f"{name}:{'unlabeled' if name == 'stl10' else 'train'}" and source.channels == 3
    assert all(np.array_equal(a, b) for a, b in zip(all_of(source), images, strict=True))
    train = open_source(f"{name}:train")
    assert len(np.unique(train.labels["label"])) == 2
    assert (source.labels == {}) == (name == "stl10")
    if name != "svhn":
        assert train.classes == ["bird", "cat"]
    with pytest.raises(UserError, match=rf"{name} has no split 'nothing': use one of {name}, {name}:"):
        open_source(f"{name}:nothing")
    write = tmp_path / name / "a.png"
    write.parent.mkdir()
    write.write_bytes(encoded(0))
    with pytest.raises(UserError, match=rf"{name} is both a folder"):
        open_source(name)


@pytest.mark.parametrize("name", ["cifar100", "stl10", "svhn", "mnist", "kmnist"])
def test_a_dataset_that_is_not_here_is_downloaded_by_the_first_process_only(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    refused(name, rf"{name} was not found: run hjepa once in a single process to download it")


def test_a_damaged_download_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/cifar-100-python").mkdir(parents=True)
    (tmp_path / "data/cifar-100-python/train").write_bytes(b"cut")
    refused("cifar100", r"cifar100:train is incomplete or damaged in data.*move data/cifar-100-python away")


# ---- very many names -----------------------------------------------------------------------------


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8)))
def test_names_come_back_as_they_were(names):
    table = NameTable(names)
    assert list(table) == names and len(table) == len(names)
    if names:
        assert table[-1] == names[-1]
    with pytest.raises(IndexError):
        table[len(names)]


def test_very_many_paths_take_little_memory(tmp_path):
    """Measured in a process of its own: what listing them takes at its peak, the table included."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from hjepa.data.name_table import NameTable
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
table = NameTable(f"class-{{n % 1000:04}}/photograph-of-something-{{n:08}}.jpg" for n in range(300_000))
assert table[299_999].endswith("299999.jpg")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 60, done.stdout  # 200 MB for a million
