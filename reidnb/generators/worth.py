"""What a generator's pictures are worth, told by features: near to the real ones, unlike each other, not copied."""

import numpy as np


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """The distance of two clouds of features (N, D), (M, D) as if both were normal distributions (FID, Heusel et al.,
    2017): |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)).

    FID takes Inception's features; of others the number has another scale, and only an order means something. It grows
    where pictures are few: compare clouds of one size, and with the distance of two halves of the real ones. ValueError
    for fewer than two rows, unequal D, or NaN.
    """
    x, y = _clouds(x, y)
    (m, c), (n, d) = ((part.mean(0), np.atleast_2d(np.cov(part, rowvar=False))) for part in (x, y))
    # (C C')^(1/2) has the trace of (C^(1/2) C' C^(1/2))^(1/2), which is symmetric: no trouble where C is singular
    values, vectors = np.linalg.eigh(c)
    half = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    roots = np.sqrt(np.linalg.eigvalsh(half @ d @ half).clip(min=0))
    return float(max(0.0, (m - n) @ (m - n) + np.trace(c + d) - 2 * roots.sum()))


def diversity(x: np.ndarray) -> float:
    """The mean Euclidean distance of two different rows of features (N, D); 0 where all pictures are one (collapse)."""
    x, _ = _clouds(x, x)
    return float(_distances(x, x)[np.triu_indices(len(x), 1)].mean())


def nearest_training(painted: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each painted row (N, D) the nearest real one of (M, D) -> its row (N,) and how far it is (N,)."""
    painted, real = np.atleast_2d(painted).astype(np.float64), np.atleast_2d(real).astype(np.float64)
    if not len(real) or painted.shape[1] != real.shape[1]:
        raise ValueError(f"features (N, D) and (M, D), M at least 1; got {painted.shape} and {real.shape}")
    apart = _distances(painted, real)
    return apart.argmin(1), apart.min(1)


def _distances(x, y):
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    return np.sqrt(squares.clip(min=0))


def _clouds(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"features (N, D) and (M, D) of two pictures or more each; got {x.shape} and {y.shape}")
    if odd := sum(int((~np.isfinite(part)).sum()) for part in (x, y)):
        raise ValueError(f"features must be finite numbers; {odd} are NaN or infinite")
    return x, y
