"""What DATA may be, and how it becomes numbered images: one file for each kind."""

from hjepa.data.sources.arrays import ArraySource, DatasetSource, as_pixels
from hjepa.data.sources.files import DiskSource, FileSource, FolderSource, image_name
from hjepa.data.sources.lists import ListSource
from hjepa.data.sources.named import cifar10_is_here, fashion_mnist_is_here
from hjepa.data.sources.opening import open_source, open_unread
from hjepa.data.sources.paged import Pages
from hjepa.data.sources.protocol import ImageSource, fingerprint_with_labels, renumber_classes

__all__ = [
    "ArraySource",
    "DatasetSource",
    "DiskSource",
    "FileSource",
    "FolderSource",
    "ImageSource",
    "ListSource",
    "Pages",
    "as_pixels",
    "cifar10_is_here",
    "fashion_mnist_is_here",
    "fingerprint_with_labels",
    "image_name",
    "open_source",
    "open_unread",
    "renumber_classes",
]
