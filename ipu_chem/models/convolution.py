"""Messages along edges, with one definition for every device.

Shapes: P edges or pairs of all packs, M atoms
of all packs, F features.
"""

from typing import Callable, NamedTuple, Optional

from torch import Tensor, nn

from ipu_chem.models.layers import sum_into, take_rows


class EdgeList(NamedTuple):
    """Senders and receivers; padding edges have a filter of 0."""

    source: Tensor  # [P] integer, rows of x
    target: Tensor  # [P] integer
    undirected: bool  # every pair stands there once and works both ways with the same filter


def convolve(x: Tensor, filters: Tensor, edges: EdgeList) -> Tensor:
    """Messages that every atom receives: the sum over its edges of the sender's features times the edge's filter.

    Args:
        x: [M, F], what atoms send.
        filters: [P, F], 0 for padding.
        edges: P of them.

    Returns:
        [M, F].
    """
    received = sum_into(take_rows(x, edges.source) * filters, edges.target, x.shape[0])
    if edges.undirected:
        received = received + sum_into(take_rows(x, edges.target) * filters, edges.source, x.shape[0])
    return received


class Convolution(nn.Module):
    """`convolve` as a module without weights, so that a backend can put its own form in its place."""

    kernel: Optional[Callable[[Tensor, Tensor, EdgeList], Tensor]] = None

    def forward(self, x: Tensor, filters: Tensor, edges: EdgeList) -> Tensor:
        """See `convolve`."""
        return convolve(x, filters, edges) if self.kernel is None else self.kernel(x, filters, edges)
