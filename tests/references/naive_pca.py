"""Principal components written out: the eigenvectors of the covariance of the checkpoints."""

from __future__ import annotations

import numpy as np


def principal_components(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (count, P) and the shares of variance that they explain."""
    mean = sum(row for row in rows) / len(rows)
    covariance = sum(np.outer(row - mean, row - mean) for row in rows)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:count]
    return vectors[:, order].T, values[order] / values.sum()
