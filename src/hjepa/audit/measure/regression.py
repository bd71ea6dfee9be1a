"""The momentum of one update, by least squares.

One update is ``t1 = t0 + a (c - t0)`` in every coordinate, with ``a = 1 - momentum`` and ``c`` the student.  The
difference basis is used because teacher and student are almost collinear, and ``s t0`` is fitted besides because the
two coefficients need not sum to 1.  Coordinates are weighted by what rounding leaves of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

UNEXPLAINED = 8.0  # residual in units of rounding above which no formula explains an update
INDEPENDENT = 1e-3  # share of |d| below which a residual is small whatever the rounding


@dataclass
class Fit:
    """One update explained by the student: ``momentum``, its standard error, and what is left.

    ``chi``: residual in units of the rounding of one update, ``rest``: as a share of the update's size.
    ``excess``: ``s``, by how much the two coefficients miss a sum of 1.
    """

    momentum: float
    error: float
    chi: float
    rest: float
    excess: float = 0.0
    excess_error: float = 0.0

    @property
    def explains(self) -> bool:
        """Whether rounding, or next to nothing, is left."""
        return self.chi < UNEXPLAINED or self.rest < INDEPENDENT

    @property
    def only_decays(self) -> bool:
        """Whether the teacher shrank and the student has no share that could be told from none."""
        shrinks = self.excess < -max(1e-5, 6 * self.excess_error)
        told = 6 * self.error < -self.excess
        return self.explains and shrinks and told and abs(1 - self.momentum) < max(6 * self.error, -0.2 * self.excess)


def rounding_noise(t0: Tensor, t1: Tensor, rounding: Tensor, student: Tensor | None = None) -> Tensor:
    """Return the rounding error of one update, about half a unit in the last place of the larger value."""
    size = torch.maximum(t0.abs(), t1.abs())
    if student is not None:  # a product with a small share is rounded too; a teacher at 0 would count for ever
        size = torch.maximum(size, 1e-4 * torch.nan_to_num(student).abs())
    return 0.5 * rounding * torch.clamp(size, min=1e-30) + 1e-38


def fit(t0: Tensor, t1: Tensor, student: Tensor, noise: Tensor) -> Fit:
    """Return the momentum that explains ``t0 -> t1`` with ``student``; all float64 ``[n]``."""
    d, x = t1 - t0, student - t0
    solved = least_squares(torch.stack([t0, x], dim=1), d, noise)
    if solved is None:
        weight = noise**-2
        share = float((weight * x * d).sum() / (weight * x * x).sum().clamp(min=1e-300))
        left = d - share * x
        error = max(float((weight * x * x).sum().rsqrt()), _bias(d, x, noise))
        return Fit(1 - share, error, chi_of(left, noise), residual_share(left, d))
    values, errors, chi, left = solved
    return Fit(
        momentum=1.0 - float(values[1]),
        error=max(float(errors[1]) * max(1.0, chi), _bias(d, x, noise)),
        chi=chi,
        rest=residual_share(left, d),
        excess=float(values[0]),
        excess_error=float(errors[0]) * max(1.0, chi),
    )


def _bias(d: Tensor, x: Tensor, noise: Tensor) -> float:
    """Return by how much rounding may bend the share, where it need not be independent of the step.

    A number that is averaged with its equal is rounded to the same side again and again, so steps of a few
    units in the last place may all point away from the student.
    """
    size = (x / noise).abs()
    return float(0.5 * size[d.abs() <= 4 * noise].sum() / (size * size).sum().clamp(min=1e-300))


def chi_of(left: Tensor, noise: Tensor) -> float:
    """Return the root mean square of a residual in units of its rounding error."""
    return float(((left / noise) ** 2).mean().sqrt())


def residual_share(left: Tensor, whole: Tensor) -> float:
    """Return how large a residual is beside the whole."""
    return float(left.norm() / whole.norm().clamp(min=1e-300))


def least_squares(x: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, float, Tensor] | None:
    """Return weighted least squares: values, standard errors, chi, residuals; None if not solvable."""
    w = x / noise[:, None]
    scale = w.norm(dim=0)
    if not bool((scale > 0).all()) or not bool(torch.isfinite(scale).all()):
        return None
    q = w / scale
    normal = q.T @ q
    if float(torch.linalg.eigvalsh(normal)[0]) < 1e-12:
        return None
    inverse = torch.linalg.inv(normal)
    values = (inverse @ (q.T @ (y / noise))) / scale
    left = y - x @ values
    return values, inverse.diagonal().clamp(min=0).sqrt() / scale, chi_of(left, noise), left
