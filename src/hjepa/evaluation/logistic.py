"""Multinomial logistic regression in torch, many problems at once, with the objective of scikit-learn.

For weights ``W`` [F, K] and intercepts ``b`` [K], the objective is the mean cross-entropy of ``softmax(x W + b)`` plus
``|W|^2 / (2 C n)``. It is strictly convex in ``W``, so its optimum does not depend on the algorithm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HISTORY = 10
"""Pairs of steps and gradient changes that L-BFGS keeps, as scipy does."""
GRADIENT_TOLERANCE = 1e-4
"""Norm of the gradient at convergence. scikit-learn's default asks this of the largest entry, which is weaker."""
GAP_TOLERANCE = 1e-7
"""Expected further decrease of the objective at convergence, estimated by L-BFGS."""
SHORTEST_STEP = 1e-8
"""Fraction of a direction below which a problem is given up as not converged."""
BLOCK = 2**22
"""Largest number of features or logits in a block of rows; 16 times as many on a card."""
WIDEST_GRAM = 4096
"""Features up to which their covariance preconditions the problem: beyond, it costs more than it saves."""


class Models(NamedTuple):
    """Logistic regressions on ``S`` training sets of the same size with ``M`` values of C each."""

    weights: Tensor  # [S, M, F, K]
    intercepts: Tensor  # [S, M, K]
    objective: Tensor  # float64 [S, M]: mean cross-entropy plus penalty
    converged: Tensor  # bool [S, M]: both tolerances were met
    passes: int  # over the training images

    def predict(self, x: Tensor) -> Tensor:
        """Return the most probable class of each row of ``x`` [S, n, F]: int64 [S, M, n]."""
        rows = _rows(x, self.weights[..., 0, :].numel())
        return torch.cat(
            [(part[:, None] @ self.weights + self.intercepts[:, :, None]).argmax(3) for part in x.split(rows, dim=1)],
            dim=2,
        )


def fit_logistic(x: Tensor, codes: Tensor, cs: Sequence[float], classes: int, iterations: int) -> Models:
    """Fit one model per training set ``x`` [S, n, F] and value of ``cs``; ``codes`` [S, n] are class numbers from 0.

    All problems are solved together by L-BFGS from zero, each with its own step sizes, in at most ``iterations`` passes
    over the rows. Columns are expected to be centred and of similar scale. Deterministic on a CPU.
    """
    problem = _Problem(x, codes, cs, classes)
    point = torch.zeros(*problem.shape, dtype=x.dtype, device=x.device)
    value, gradient = problem.evaluate(point)
    memory = _Memory(problem, point, gradient)
    direction, gap = memory.direction(gradient)
    converged = _met(gradient, gap)
    stuck, step = torch.zeros_like(converged), torch.ones_like(value)
    found = Models(point[:, :, :-1].clone(), point[:, :, -1].clone(), value.clone(), converged.clone(), 1)
    left, passes = torch.arange(len(cs), device=x.device), 1  # the values of C that are still being solved
    while True:
        open_problems = ~(converged | stuck).all(0)
        if passes == iterations or not bool(open_problems.all()):
            # A value of C whose models are ready takes no further part.
            found.weights[:, left], found.intercepts[:, left] = point[:, :, :-1], point[:, :, -1]
            found.objective[:, left], found.converged[:, left] = value, converged
            if passes == iterations or not bool(open_problems.any()):
                return found._replace(passes=passes)
            left = left[open_problems]
            point, value, gradient, direction, gap, converged, stuck, step = (
                each[:, open_problems] for each in (point, value, gradient, direction, gap, converged, stuck, step)
            )
            problem.keep(open_problems)
            memory.keep(open_problems)
        # Every problem tries a point in each pass. Where the objective falls enough, it moves there and gets a new
        # direction; otherwise it halves its step.
        trial = point + _times(step, direction)
        tried, slope = problem.evaluate(trial)
        passes += 1
        expected = _dot(gradient, direction)
        falls = tried <= value + 1e-4 * step * expected
        # Close to the optimum, rounding hides how far the objective falls, but not its slope.
        flat = (tried <= value + 4 * torch.finfo(x.dtype).eps * value.abs()) & (
            _dot(slope, direction).abs() <= 0.9 * expected.abs()
        )
        accepted = (falls | flat) & ~(converged | stuck)
        memory.remember(trial - point, slope - gradient, accepted)
        point = torch.where(_wide(accepted), trial, point)
        gradient = torch.where(_wide(accepted), slope, gradient)
        value = torch.where(accepted, tried, value)
        new_direction, new_gap = memory.direction(gradient)
        direction = torch.where(_wide(accepted), new_direction, direction)
        gap = torch.where(accepted, new_gap, gap)
        step = torch.where(accepted, 1.0, step / 2)
        converged |= accepted & _met(gradient, gap)
        stuck |= step < SHORTEST_STEP


class _Problem:
    """The objectives of all problems; a point is [S, M, F + 1, K], with the intercepts in the last row."""

    def __init__(self, x: Tensor, codes: Tensor, cs: Sequence[float], classes: int) -> None:
        self.x, self.codes = x, codes
        self.shape = (x.shape[0], len(cs), x.shape[2] + 1, classes)
        # Two classes: scikit-learn penalises the difference of the two weight vectors, not both of them.
        strengths = torch.tensor(cs, dtype=torch.float64, device=x.device) * (0.5 if classes == 2 else 1.0)
        self.penalty = 1 / (strengths * x.shape[1])  # [M]

    def evaluate(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Return objectives, float64 [S, M], and gradients [S, M, F + 1, K]."""
        sets, problems, height, classes = self.shape
        weights, intercepts = point[:, :, :-1], point[:, :, -1:]
        flat = weights.permute(0, 2, 1, 3).reshape(sets, height - 1, problems * classes)
        offsets = intercepts.permute(0, 2, 1, 3).reshape(sets, 1, problems * classes)
        value = torch.zeros(sets, problems, dtype=torch.float64, device=point.device)
        slope = torch.zeros_like(flat)
        shift = torch.zeros_like(offsets)
        n = self.x.shape[1]
        rows = _rows(self.x, sets * problems * classes)
        for x, codes in zip(self.x.split(rows, dim=1), self.codes.split(rows, dim=1), strict=True):
            logits = torch.baddbmm(offsets, x, flat).unflatten(2, (problems, classes))  # [S, rows, M, K]
            of_class = codes[:, :, None, None].expand(-1, -1, problems, 1)
            logs = logits.log_softmax(3)
            value -= logs.gather(3, of_class).sum(1, dtype=torch.float64)[..., 0]
            error = logs.exp_()
            error.scatter_add_(3, of_class, error.new_full((), -1.0).expand_as(of_class))
            error = error.flatten(2)
            slope += x.mT @ error
            shift += error.sum(1, keepdim=True)
        penalty = self.penalty[:, None, None]
        value = value / n + 0.5 * self.penalty * weights.double().square().sum((2, 3))
        gradient = torch.cat([slope, shift], 1).unflatten(2, (problems, classes)).transpose(1, 2) / n
        gradient[:, :, :-1] += penalty.to(point.dtype) * weights
        return value, gradient

    def keep(self, problems: Tensor) -> None:
        """Go on with some of the values of C only; ``problems`` is bool [M]."""
        self.penalty = self.penalty[problems]
        self.shape = (self.shape[0], len(self.penalty), *self.shape[2:])

    def preconditioner(self) -> Tensor | None:
        """Return the inverse of the Hessian at zero without its class structure, [S, M, F, F]; None if too wide.

        At zero every class has probability 1/K, so the curvature is the covariance of the features divided by K.
        """
        sets, _, height, classes = self.shape
        width = height - 1
        if width > WIDEST_GRAM:
            return None
        gram = torch.zeros(sets, width, width, dtype=torch.float64, device=self.x.device)
        for x in self.x.split(8192, dim=1):  # float32 sums of limited length, added in float64
            gram += x.mT @ x
        gram /= self.x.shape[1] * classes
        trace = gram.diagonal(dim1=1, dim2=2).sum(1).clamp_min(1e-12)
        inverses = []
        for penalty in self.penalty:
            ridge, info = 1e-7, torch.ones(1)  # of the size of the rounding errors, or else as small as it may be
            while bool(info.any()):
                shifted = gram + torch.diag_embed((penalty + ridge * trace)[:, None].expand(-1, width))
                factor, info = torch.linalg.cholesky_ex(shifted.to(self.x.dtype))
                ridge *= 10
            inverses.append(torch.cholesky_inverse(factor))
        return torch.stack(inverses, 1)


class _Memory:
    """The last steps and gradient changes of every problem, and the L-BFGS direction that follows from them."""

    def __init__(self, problem: _Problem, point: Tensor, gradient: Tensor) -> None:
        self.inverse, self.penalty, self.classes = problem.preconditioner(), problem.penalty, point.shape[3]
        # Changes are kept preconditioned as well, so that only the gradient has to be preconditioned in a pass.
        self.steps, self.changes, self.smooth = (point.new_zeros(HISTORY, *point.shape) for _ in range(3))
        self.weights = torch.zeros(HISTORY, *point.shape[:2], dtype=torch.float64, device=point.device)
        self.next = torch.zeros(point.shape[:2], dtype=torch.int64, device=point.device)
        self.scale = torch.ones(point.shape[:2], dtype=torch.float64, device=point.device)

    def keep(self, problems: Tensor) -> None:
        """Go on with some of the values of C only; ``problems`` is bool [M]."""
        self.steps, self.changes, self.smooth, self.weights = (
            each[:, :, problems] for each in (self.steps, self.changes, self.smooth, self.weights)
        )
        self.next, self.scale, self.penalty = self.next[:, problems], self.scale[:, problems], self.penalty[problems]
        self.inverse = None if self.inverse is None else self.inverse[:, problems]

    def remember(self, step: Tensor, change: Tensor, accepted: Tensor) -> None:
        """Keep the pair of every accepted step whose curvature is positive."""
        curvature = _dot(step, change)
        kept = accepted & (curvature > 1e-12 * _dot(change, change))
        place = self.next[kept] % HISTORY
        s, m = kept.nonzero(as_tuple=True)
        smooth = self._precondition(change)
        self.steps[place, s, m], self.changes[place, s, m], self.smooth[place, s, m] = (
            each[kept] for each in (step, change, smooth)
        )
        self.weights[place, s, m] = 1 / curvature[kept]
        self.scale = torch.where(kept, curvature / _dot(change, smooth), self.scale)
        self.next += kept

    def direction(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the direction [S, M, F + 1, K] and how much the objective is expected to fall along it [S, M]."""
        rest, taken = gradient, []
        sets, problems = self.next.shape
        s = torch.arange(sets, device=gradient.device)[:, None]
        m = torch.arange(problems, device=gradient.device)
        for age in range(1, min(HISTORY, int(self.next.max())) + 1):
            place = (self.next - age) % HISTORY
            step, change, weight = self.steps[place, s, m], self.changes[place, s, m], self.weights[place, s, m]
            share = weight * _dot(step, rest)
            rest = rest - _times(share, change)
            taken.append((step, change, weight, share))
        found = _times(self.scale, self._precondition(rest))
        for step, change, weight, share in reversed(taken):
            found = found + _times(share - weight * _dot(change, found), step)
        falls = _dot(gradient, found)
        return torch.where(_wide(falls > 0), -found, -gradient), 0.5 * falls.abs()

    def _precondition(self, gradient: Tensor) -> Tensor:
        """Apply the inverse Hessian at zero to [S, M, F + 1, K]."""
        weights, intercepts = gradient[:, :, :-1], gradient[:, :, -1:]
        if self.inverse is None:
            scale = 1 / (1 / self.classes + self.penalty)
            weights = scale[:, None, None].to(weights.dtype) * weights
        else:
            weights = self.inverse @ weights
        return torch.cat([weights, self.classes * intercepts], 2)


def _rows(x: Tensor, logits: int) -> int:
    """Return how many rows of ``x`` [S, n, F] make a block, with so many logits each."""
    largest = BLOCK if x.device.type == "cpu" else 16 * BLOCK
    return max(1, largest // max(logits, x.shape[0] * x.shape[2]))


def _met(gradient: Tensor, gap: Tensor) -> Tensor:
    return (_dot(gradient, gradient).sqrt() <= GRADIENT_TOLERANCE) & (gap <= GAP_TOLERANCE)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each problem, float64 [S, M]."""
    return (a * b).sum((2, 3), dtype=torch.float64)


def _times(factor: Tensor, point: Tensor) -> Tensor:
    return _wide(factor).to(point.dtype) * point


def _wide(values: Tensor) -> Tensor:
    return values[:, :, None, None]
