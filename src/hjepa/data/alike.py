"""Images that all show the same, or nothing: nothing can be learned from them, and training would blame itself."""

import torch
from torch import Tensor

from hjepa.data.augment import ResizeToInput
from hjepa.data.sample import sampled_images
from hjepa.data.sources import ImageSource
from hjepa.errors import UserError

SAMPLE = 512
LITTLE_SAMPLE = 64  # images that are looked at for the notices
BLANK_FRACTION = 0.1  # say so if at least this fraction is blank
# Copies of a picture that were encoded anew, or the noise of a covered lens: so little do they differ, in levels of
# 255 and against the contrast of all pixels.
NEARLY_ALIKE, NEARLY_ALIKE_CONTRAST = 2.0, 0.1


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


def content_notices(source: ImageSource, resize: ResizeToInput) -> list[str]:
    """Return notices on images from which little can be learned: a verdict on the run would be about the settings."""
    looked_at = list(sampled_images(source, resize, LITTLE_SAMPLE, "alike"))
    count, blank = len(looked_at), sum(map(_is_blank, looked_at))
    said = []
    if blank and blank >= BLANK_FRACTION * count:
        said.append(f"{blank} of {count} images looked at are blank (a single shade), so they teach nothing")
    if count < 2 or blank == count:
        return said
    different = len({image.numpy().tobytes() for image in looked_at})
    apart, contrast = _levels_apart(torch.cat(looked_at))
    if different <= count / 2:
        said.append(f"the {count} images looked at are only {different} different pictures: little can be learned")
    elif apart < max(NEARLY_ALIKE, NEARLY_ALIKE_CONTRAST * contrast):
        said.append(
            f"the {count} images looked at are nearly the same picture (they differ by {apart:.1f} of 255 levels): if "
            "little is learned, it is because of them"
        )
    return said


def _levels_apart(images: Tensor) -> tuple[float, float]:
    """Return standard deviations of pixels [n, C, H, W] in levels of 255: across images, and over all of them."""
    values = images.float() * (255 if images.is_floating_point() else 1)
    return float(values.var(0).mean().sqrt()), float(values.std())


def _is_blank(image: Tensor) -> bool:
    return bool((image == image[..., :1, :1]).all())
