"""Images that all show the same, or nothing: nothing can be learned from them, and training would blame itself."""

import torch
from torch import Tensor

from hjepa.data.augment import ResizeToInput
from hjepa.data.sample import sampled_images
from hjepa.data.sources import ImageSource
from hjepa.errors import UserError

SAMPLE = 512
BLANK_SAMPLE, BLANK_FRACTION = 64, 0.1  # say so if at least this fraction of so many images is blank


def refuse_images_all_alike(source: ImageSource, resize: ResizeToInput) -> None:
    """Raise UserError if a random sample of the images is the same picture again and again; two that differ end it."""
    first, same = None, 0
    for image in sampled_images(source, resize, SAMPLE, "alike"):
        if first is not None and not torch.equal(image, first):
            return
        first, same = image, same + 1
    if first is None or same < 2:
        return
    what = "the same picture"
    if _is_blank(first):
        shade = {0.0: "black", 1.0 if first.is_floating_point() else 255.0: "white"}
        what = f"empty ({shade.get(float(first.flatten()[0]), 'one shade')})"
    raise UserError(
        f"all {same:,} images looked at in {source.name} are {what}, so nothing can be learned from them "
        "(their standard deviation across images is 0): check the files, or give another folder"
    )


def blank_notice(source: ImageSource, resize: ResizeToInput) -> list[str]:
    """Return a notice if many images are of a single shade: their targets are constant."""
    blank = [_is_blank(image) for image in sampled_images(source, resize, BLANK_SAMPLE, "alike")]
    if not blank or sum(blank) < BLANK_FRACTION * len(blank):
        return []
    return [f"{sum(blank)} of {len(blank)} images looked at are blank (a single shade), so they teach nothing"]


def _is_blank(image: Tensor) -> bool:
    return bool((image == image[..., :1, :1]).all())
