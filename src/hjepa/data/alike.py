"""Images that all show the same: nothing can be learned from them, and training would blame something else."""

import torch

from hjepa.data.augment import ResizeToInput
from hjepa.data.loader import resized
from hjepa.data.sources import ImageSource
from hjepa.data.survey import sample_of
from hjepa.errors import UserError

SAMPLE = 512


def refuse_images_all_alike(source: ImageSource, resize: ResizeToInput) -> None:
    """Raise UserError if a random sample of the images is the same picture again and again; two that differ end it."""
    first, same = None, 0
    for index in sample_of(len(source), SAMPLE, "alike"):
        try:
            image = resized(source, [index], resize)
        except UserError:
            continue  # it is reported by whoever needs it
        if first is not None and not torch.equal(image, first):
            return
        first, same = image, same + 1
    if first is None or same < 2:
        return
    what = "the same picture"
    if float(first.float().std(correction=0)) == 0:
        shade = {0.0: "black", 1.0 if first.is_floating_point() else 255.0: "white"}
        what = f"empty ({shade.get(float(first.flatten()[0]), 'one shade')})"
    raise UserError(
        f"all {same:,} images looked at in {source.name} are {what}, so nothing can be learned from them "
        "(their standard deviation across images is 0): check the files, or give another folder"
    )
