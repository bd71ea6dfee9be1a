"""What DATA may be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hjepa.data import sources
from hjepa.data.sources import named, open_source
from hjepa.errors import UserError


def write(file: Path, value: int = 0, mode: str = "RGB") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), value if mode == "L" else (value, 0, 0)).save(file)


def test_a_folder_is_searched_with_all_subfolders_in_path_order(tmp_path):
    for number, name in enumerate(["b.png", "a/x/deep.jpg", "a/1.webp", "z.tif", ".hidden/no.png", ".no.png"]):
        write(tmp_path / name, number)
    (tmp_path / "readme.txt").write_text("not an image")
    source = open_source(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in source.paths] == ["a/1.webp", "a/x/deep.jpg", "b.png", "z.tif"]
    assert source[2].shape == (4, 6, 3)
    assert source.labels == {}


@pytest.mark.parametrize("classes", [["cat"], ["cat", "dog"]])
def test_class_folders_become_labels(tmp_path, classes):
    for number in range(4):
        write(tmp_path / classes[number % len(classes)] / f"{number}.png", number)
    assert open_source(tmp_path).labels["label"].tolist() == sorted(n % len(classes) for n in range(4))


@pytest.mark.parametrize("name", ["scenes", "fashion-mnist", "cifar10"])
def test_a_folder_that_is_called_as_a_data_set_is_not_passed_over_in_silence(name, tmp_path, monkeypatch):
    """Case 33."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name / "a.png")
    with pytest.raises(UserError, match=rf"^{name} .*folder.*data ?set.*\./{name} .*{name}:train"):
        open_source(name)
    assert len(open_source(f"./{name}")) == 1


def test_grey_folders_have_one_channel_and_mixed_ones_three(tmp_path):
    write(tmp_path / "a.png", 3, "L")
    assert open_source(tmp_path).channels == 1
    write(tmp_path / "b.png", 3)
    assert open_source(tmp_path).channels == 3


def test_lists(tmp_path):
    write(tmp_path / "x.png", 1)
    write(tmp_path / "sub" / "y.png", 2)
    (tmp_path / "list.txt").write_text("# mine\nsub/y.png\n\nx.png\n")
    assert [int(image[0, 0, 0]) for image in open_source(tmp_path / "list.txt")] == [2, 1]
    (tmp_path / "list.csv").write_text("path,label\nx.png,zebra\nsub/y.png,ant\n")
    source = open_source(str(tmp_path / "list.csv"))
    assert [int(image[0, 0, 0]) for image in source] == [1, 2]
    assert source.labels["label"].tolist() == [1, 0]


def test_the_fingerprint_changes_with_the_files(tmp_path):
    write(tmp_path / "a.png", 1)
    first = open_source(tmp_path).fingerprint()
    assert first == open_source(tmp_path).fingerprint()
    write(tmp_path / "b.png", 1)
    assert open_source(tmp_path).fingerprint() != first


def test_arrays(tmp_path):
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    source = open_source(images)
    assert len(source) == 2 and source.channels == 3
    assert np.array_equal(source[1], images[1])
    assert open_source(images[..., 0]).channels == 1
    with pytest.raises(UserError, match=r"numbers \[n, H, W, C\], uint8 .* got bool \[2, 4, 4, 3\]"):
        open_source(images > 2)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index >= 3:
            raise IndexError(index)
        return self.item


@pytest.mark.parametrize(
    "item",
    [
        torch.full((3, 4, 6), 0.5),
        (torch.full((3, 4, 6), 128, dtype=torch.uint8), 1),
        np.full((4, 6, 3), 128, dtype=np.uint8),
        Image.new("RGB", (6, 4), (128, 128, 128)),
    ],
    ids=["float tensor", "tuple", "array", "PIL"],
)
def test_any_dataset(item):
    source = open_source(Pairs(item))
    assert len(source) == 3
    assert source[0].shape == (4, 6, 3) and source[0].dtype == np.uint8
    assert abs(int(source[0].max()) - 128) <= 0


def test_normalised_tensors_are_refused():
    with pytest.raises(UserError, match=r"floats from -1 to -1: .*uint8.*floats in 0\.\.1"):
        open_source(Pairs(torch.full((3, 4, 4), -1.0)))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            np.zeros((5, 3, 16, 16), np.uint8),
            r"an array of images of shape \[5, 3, 16, 16\] has 16 channels: .*\[n, H, W",
        ),
        (torch.zeros(5, 16, 16, 3, dtype=torch.uint8), r"image of the Tensor of shape \[16, 16, 3\] .*\[C, H, W\]"),
        (Pairs(np.zeros((3, 16, 16), np.uint8)), r"image of the Pairs of shape \[3, 16, 16\] has 16 .*\[H, W, C\]"),
    ],
)
def test_an_axis_that_is_no_channels_is_not_taken_for_them(data, said):
    with pytest.raises(UserError, match=said):
        open_source(data)
    assert open_source(data, channels=16).channels == 16


def with_targets(targets):
    dataset = Pairs(torch.zeros(3, 8, 8))
    dataset.targets = targets
    return open_source(dataset)


def test_targets_of_a_dataset_become_labels():
    source = with_targets(["dog", "cat", "dog"])
    assert source.labels["label"].tolist() == [1, 0, 1] and source.classes == ["cat", "dog"]
    assert with_targets(torch.tensor([4, 2, 4])).labels["label"].tolist() == [4, 2, 4]
    assert with_targets([1.0, 0.0, 1.0]).labels["label"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([0, 1], r"Pairs.targets has 2 entries for 3 images"),
        ([0.7, 1.0, 0.0], r"Pairs.targets .*\b0\.7\b.*not a class"),
        ([[0], [1, 2], []], r"Pairs.targets .*one class (for each|per) image"),
        ([{"box": 1}] * 3, r"Pairs.targets .*one class (for each|per) image"),
    ],
)
def test_targets_that_are_no_classes_are_refused_when_labels_are_asked_for(targets, said):
    source = with_targets(targets)  # training needs no labels
    with pytest.raises(UserError, match=said):
        source.labels  # noqa: B018


def test_things_that_are_no_images():
    with pytest.raises(UserError, match=r"DATA is .*int.*: pass a folder"):
        open_source(3)
    with pytest.raises(UserError, match="is empty"):
        open_source([])


def test_fashion_mnist_from_a_local_folder(tmp_path, monkeypatch):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    images, labels = named.FASHION_FILES["test"]
    header = bytes([0, 0, 8, 3]) + (2).to_bytes(4) + (28).to_bytes(4) + (28).to_bytes(4)
    (folder / images).write_bytes(header + bytes(range(256)) * 6 + bytes(2 * 784 - 256 * 6))
    (folder / labels).write_bytes(bytes([0, 0, 8, 1]) + (2).to_bytes(4) + bytes([7, 9]))
    monkeypatch.setattr(named, "FASHION_FOLDERS", (folder,))
    source = open_source("fashion-mnist:test")
    assert len(source) == 2 and source.channels == 1
    assert source[0].shape == (28, 28, 1) and int(source[0][0, 5, 0]) == 5
    assert source.labels["label"].tolist() == [7, 9]
    (folder / images).write_bytes(header + b"short")
    with pytest.raises(UserError, match=r"is damaged: (get|download) it again"):
        open_source("fashion-mnist:test")


@pytest.mark.skipif(not sources.fashion_mnist_is_here(), reason="needs Debian's dataset-fashion-mnist")
def test_the_real_fashion_mnist():
    train, test = open_source("fashion-mnist"), open_source("fashion-mnist:test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(train.labels["label"]).tolist() == [6_000] * 10
    assert train.images.mean() == pytest.approx(72.94, abs=0.01)


def photographs(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def cifar10_npz(file: Path, **changes) -> dict[str, np.ndarray]:
    """Write a small file of MedMNIST's layout, with labels [n, 1]."""
    arrays = {
        "train_images": photographs(6, 0), "train_labels": np.array([[0], [1], [2], [0], [1], [2]], np.uint8),
        "test_images": photographs(3, 1), "test_labels": np.array([[2], [1], [0]], np.uint8),
        "class_names": np.array(["airplane", "bird", "cat"]),
    } | changes  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: values for name, values in arrays.items() if values is not None})
    return arrays


@pytest.mark.parametrize("place", ["cifar10.npz", "data/cifar10.npz"])
def test_cifar10_is_found_as_one_file(tmp_path, monkeypatch, place):
    arrays = cifar10_npz(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    assert sources.cifar10_is_here()
    train, test = open_source("cifar10"), open_source("cifar10:test")
    assert np.array_equal(train.images, arrays["train_images"]) and train.name == "cifar10:train"
    assert np.array_equal(test.images, arrays["test_images"]) and test.labels["label"].tolist() == [2, 1, 0]
    assert train.classes == ["airplane", "bird", "cat"]
    by_path = open_source(f"{place}:test")
    assert by_path.fingerprint() == test.fingerprint()


def test_cifar10_is_found_in_torchvisions_folder(tmp_path, monkeypatch):
    """As torchvision leaves it; only the check sums are of these files."""
    import hashlib
    import pickle

    from torchvision.datasets import CIFAR10

    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = photographs(5, 2)
    rows = images.transpose(0, 3, 1, 2).reshape(5, -1)

    def written(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    monkeypatch.setattr(CIFAR10, "train_list", [written("data_batch_1", {"data": rows, "labels": [3, 1, 0, 2, 1]})])
    monkeypatch.setattr(CIFAR10, "test_list", [written("test_batch", {"data": rows[:2], "labels": [0, 1]})])
    meta = dict(zip(("filename", "md5"), written("batches.meta", {"label_names": ["a", "b", "c", "d"]}), strict=True))
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | meta)
    monkeypatch.chdir(tmp_path)
    train, test = open_source("cifar10:train"), open_source("cifar10:test")
    assert np.array_equal(train.images, images) and train.labels["label"].tolist() == [3, 1, 0, 2, 1]
    assert len(test) == 2 and train.classes == ["a", "b", "c", "d"]


def test_cifar10_that_is_not_here_says_where_it_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not sources.cifar10_is_here()
    with pytest.raises(UserError, match="cifar10 has no split 'val'"):
        open_source("cifar10:val")
    monkeypatch.setenv("RANK", "1")  # not the process that may fetch it
    with pytest.raises(UserError, match=r"cifar10.*run hjepa once in a single process"):
        open_source("cifar10")


def test_an_npz_file_is_opened_by_its_splits(tmp_path):
    file = tmp_path / "pathmnist.npz"
    arrays = cifar10_npz(file, val_images=photographs(2, 5)[..., 0], val_labels=np.array([[1], [0]], np.uint8))
    assert np.array_equal(open_source(file).images, arrays["train_images"])  # the training split, if none is named
    val = open_source(f"{file}:val")
    assert val.channels == 1 and val.labels["label"].tolist() == [1, 0] and val.name == f"{file}:val"
    plain = tmp_path / "own.npz"
    np.savez(plain, images=photographs(4, 0))
    assert len(open_source(plain)) == 4 and open_source(plain).labels == {}


@pytest.mark.parametrize(
    ("arrays", "spec", "said"),
    [
        ({"x": np.zeros(3)}, "", r"odd\.npz .*\bx: expected train_images .*, or images"),
        ({"images": np.zeros((2, 4, 4, 3), bool)}, "", r"uint8 .* got bool \[2, 4, 4, 3\]"),
        ({"train_images": photographs(2, 0)}, ":test", r"no split 'test'.*:train"),
        ({"images": photographs(2, 0), "labels": np.zeros((2, 14), np.uint8)}, "", r"labels is uint8 \[2, 14\] for 2"),
        ({"images": photographs(2, 0), "labels": np.zeros(3, np.uint8)}, "", r"labels is uint8 \[3\] for 2 images"),
        (
            {"images": photographs(2, 0), "labels": np.zeros(2)},
            "",
            r"expected one integer per image",
        ),
        ({"images": np.array([{}, {}], dtype=object)}, "", r"cannot be read as an \.npz file"),
    ],
)
def test_an_npz_file_of_something_else_is_refused_in_one_line(tmp_path, arrays, spec, said):
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(UserError, match=said):
        open_source(f"{tmp_path / 'odd.npz'}{spec}")


def test_a_damaged_npz_file_is_refused_in_one_line(tmp_path):
    cifar10_npz(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cannot be read as an \.npz file"):
        open_source(tmp_path / "cut.npz")


def numbered(values):
    return sources.ArraySource("numbers", np.zeros((len(values), 4, 4, 1), dtype=np.uint8), np.array(values))


def listed(folder, names):
    for number in range(len(names)):
        Image.new("L", (4, 4)).save(folder / f"{number}.png")
    rows = [f"{number}.png,{name}" for number, name in enumerate(names)]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return open_source(folder / "list.csv")


def test_labels_that_are_numbers_fit_a_list_that_names_them(tmp_path):
    train, test = numbered([3, 7, 10]), listed(tmp_path, ["7", "3", "10"])
    sources.renumber_classes(train, test)
    assert test.labels["label"].tolist() == [7, 3, 10]
    train, test = listed(tmp_path, ["3", "7"]), numbered([7, 7, 3])
    sources.renumber_classes(train, test)
    assert test.labels["label"].tolist() == [1, 1, 0]


def test_names_do_not_pass_for_numbers(tmp_path):
    with pytest.raises(UserError, match=r"'boot'.*numbers.* 0, 1"):
        sources.renumber_classes(numbered([0, 1]), listed(tmp_path, ["1", "boot"]))
