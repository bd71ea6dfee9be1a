"""From the bytes of a request to the encoder's input."""

import io

from torch import Tensor

from hjepa.data.decode import read_header, read_image
from hjepa.data.encoded import EncodedImage
from hjepa.data.endings import reader_missing
from hjepa.deploy.encoders import OpenedEncoder
from hjepa.errors import UserError


def decoded(name: str, content: bytes, encoder: OpenedEncoder, max_megapixels: float) -> Tensor:
    """Return one image as the encoder takes it, [C, H, W]; raises UserError with the reason.

    The size is read from the header, before the pixels are decoded.
    """
    image = EncodedImage(name, lambda: io.BytesIO(content))
    header = read_header(image, encoder.channels)
    if header is None:
        raise UserError(reader_missing(image) or "not an image")
    megapixels = header.size[0] * header.size[1] / 1e6
    if megapixels > max_megapixels:
        raise UserError(f"{megapixels:,.1f} megapixels, and {max_megapixels:g} are allowed")
    try:
        return encoder.prepare(read_image(image, encoder.channels))
    except UserError as error:
        raise UserError(" ".join(str(error).split()).removeprefix(f"{name}: ")) from None
