"""From the bytes of a request to the encoder's input."""

import io

from torch import Tensor

from hjepa.data.decode import read_header, read_image
from hjepa.data.encoded import EncodedImage
from hjepa.deploy.encoders import OpenedEncoder
from hjepa.deploy.serve.limits import Limits, Refused
from hjepa.errors import UserError


def decoded(name: str, content: bytes, encoder: OpenedEncoder, limits: Limits) -> Tensor:
    """Return one image as the encoder takes it, [C, H, W]; raises Refused with the reason.

    The size is read from the header, before the pixels are decoded.
    """
    image = EncodedImage(name, lambda: io.BytesIO(content))
    header = read_header(image, encoder.channels)
    if header is None:
        raise Refused(422, f"{name}: not an image")
    megapixels = header.size[0] * header.size[1] / 1e6
    if megapixels > limits.max_megapixels:
        raise Refused(413, f"{name}: {megapixels:,.1f} megapixels, and {limits.max_megapixels:g} are allowed")
    try:
        return encoder.prepare(read_image(image, encoder.channels))
    except UserError as error:
        reason = " ".join(str(error).split()).removeprefix(f"{name}: ")
        raise Refused(422, f"{name}: {reason}") from None
