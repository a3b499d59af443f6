"""Fits of all scaling laws: least squares with Huber's loss, for many data sets at once."""

from typing import Callable, Optional, Tuple

import numpy as np

_BENT = 0.02  # fraction of its weight with which a large residual counts in a second derivative
# Parameters [K, p] -> logarithms of losses [K, n] and their derivatives [K, n, p].
Law = Callable[[np.ndarray], Tuple[np.ndarray, np.ndarray]]


def fit(
    law: Law,
    start: np.ndarray,
    values: np.ndarray,
    delta: float,
    limits: Optional[np.ndarray] = None,
    most: int = 100,
    counts: Optional[np.ndarray] = None,
    tolerance: float = 1e-7,
    turn: Optional[np.ndarray] = None,
) -> Tuple[np.ndarray, np.ndarray]:
    """Minimize the sum of Huber's loss of logarithms, by Levenberg and Marquardt with the analytic Jacobian.

    Rows are independent: several starts for one data set, or one start for each of many.

    Args:
        law: see `Law`.
        start: [K, p].
        values: [n] or [K, n] logarithms of losses.
        delta: residuals larger than this count linearly; inf is least squares.
        limits: [2, p] or [2, K, p] of the parameters; equal ones fix a parameter; None for none.
        most: iterations.
        counts: [K, n] by which each value is there; None is once.
        tolerance: relative decrease of the sum at which a row has settled.
        turn: [K, p, p] of each row, whose parameters the law gets multiplied by it; None for none.

    Returns:
        (parameters [K, p], sums of Huber's loss [K]).
    """
    theta = np.array(start, np.float64)
    values = np.broadcast_to(values, (len(theta), np.shape(values)[-1]))
    ends = (
        None if limits is None else np.broadcast_to(limits[:, None] if limits.ndim == 2 else limits, (2, *theta.shape))
    )

    def at(rows: np.ndarray, which: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        if turn is None:
            return law(rows)
        predicted, jacobian = law((turn[which] @ rows[..., None])[..., 0])
        return predicted, jacobian @ turn[which]

    active = np.arange(len(theta))  # rows that still move
    predicted, jacobian = at(theta, active)
    cost = huber(values - predicted, delta, counts)
    damping = np.full(len(theta), 1e-3)
    for _ in range(most):
        residuals = values[active] - predicted[active]
        weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
        if counts is not None:
            weights = weights * counts[active]
        weighted = jacobian[active] * weights[..., None]
        gradient = weighted.transpose(0, 2, 1) @ residuals[..., None]
        scale = np.einsum("knp,knp->kp", weighted, jacobian[active])
        # The linear part of Huber's loss bends nothing: without most of it steps are those of Newton.
        weighted *= np.where(np.abs(residuals) <= delta, 1.0, _BENT)[..., None]
        hessian = weighted.transpose(0, 2, 1) @ jacobian[active]
        if ends is not None:  # what stands at a limit and would go beyond is left out of the step
            here, (low, high) = theta[active], ends[:, active]
            held = ((here <= low) & (gradient[..., 0] < 0)) | ((here >= high) & (gradient[..., 0] > 0))
            gradient[held] = 0.0
            hessian *= ~(held[:, None] | held[..., None])
        scale = np.maximum(scale, 1e-9 * scale.max(1, keepdims=True) + 1e-300)
        damped = hessian + (damping[active, None] * scale)[..., None] * np.eye(theta.shape[1])
        tried = theta[active] + np.linalg.solve(damped, gradient)[..., 0]
        if ends is not None:
            tried = np.clip(tried, low, high)
        new_predicted, new_jacobian = at(tried, active)
        new_cost = huber(values[active] - new_predicted, delta, None if counts is None else counts[active])
        better = new_cost < cost[active]
        settled = better & (cost[active] - new_cost <= tolerance * cost[active] + 1e-300)
        moved = active[better]
        theta[moved], cost[moved] = tried[better], new_cost[better]
        predicted[moved], jacobian[moved] = new_predicted[better], new_jacobian[better]
        damping[active] = np.where(better, np.maximum(damping[active] / 5, 1e-12), damping[active] * 4)
        active = active[~settled & (damping[active] < 1e8)]
        if not len(active):
            break
    return theta, cost


def huber(residuals: np.ndarray, delta: float, counts: Optional[np.ndarray] = None) -> np.ndarray:
    """Sum over the last axis of Huber's loss, each residual as often as ``counts`` says."""
    size = np.abs(residuals)
    inside = 0.5 * np.square(size)
    each = inside if np.isinf(delta) else np.where(size <= delta, inside, delta * (size - 0.5 * delta))
    return each.sum(-1) if counts is None else (each * counts).sum(-1)
