"""What a server accepts."""

from dataclasses import dataclass

from hjepa.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Limits that keep a server's memory bounded, whatever is sent to it."""

    max_mb: float = 32.0  # of a request
    max_megapixels: float = 32.0  # of an image: a small file can claim to be a huge picture
    max_images: int = 64  # in a request
    max_waiting: int = 128  # requests that are being received or answered; more are sent away

    def __post_init__(self) -> None:
        for name in ("max_mb", "max_megapixels", "max_images", "max_waiting"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be larger than 0")

    @property
    def max_bytes(self) -> int:
        """Return the largest request in bytes."""
        return round(self.max_mb * 1e6)
