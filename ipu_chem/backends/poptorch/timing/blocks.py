"""Time that a block of a model takes on a Bow IPU for one micro-batch, forward and backward: predicted, not measured.

Blocks of SchNet are recognized by their operators and take what their microbenchmark took; layers of transformers
take what tuned trainings of wide ones took; everything else is its operators added up.
"""

from typing import List, NamedTuple, Optional, Sequence

from ipu_chem.backends.poptorch.machine import TILES
from ipu_chem.backends.poptorch.profile import BlockProfile
from ipu_chem.backends.poptorch.timing import constants as known
from ipu_chem.backends.poptorch.timing.cycles import block_cycles, product_cycles, training_cycles
from ipu_chem.backends.poptorch.timing.operators import Operator
from ipu_chem.backends.poptorch.timing.span import NOTHING, Span, within

MEASURED = "SchNet blocks as measured on Bow, forward, in float32"
EXTRAPOLATED = "SchNet blocks beyond the sizes or formats that were measured"
ADDED_UP = "operators added up, some from guessed constants: within a factor of 2"
TUNED = "transformers from 768 features on at the 17.5 % of peak that tuned trainings reach"
SMALL = "transformers below 768 features, which nobody has measured: within a factor of 3"


class BlockTime(NamedTuple):
    """One block and one micro-batch, forward and backward.

    Attributes:
        seconds: of it.
        basis: what most of the seconds rest on, one of the sentences above.
    """

    seconds: Span
    basis: str


class SchNetBlock(NamedTuple):
    """The sizes of a continuous-filter convolution with its atom-wise layers (arXiv:1706.08566), exact filters.

    Attributes:
        atoms: N.
        messages: E, rows of filters.
        gaussians: columns that filters are made of.
        filters: columns of messages.
        features: columns of atoms.
        both_ways: every row of filters serves two messages, one each way.
    """

    atoms: int
    messages: int
    gaussians: int
    filters: int
    features: int
    both_ways: bool


def block_times(profiles: Sequence[BlockProfile], recomputed: bool) -> List[BlockTime]:
    """Every block of a model.

    Args:
        profiles: of all blocks, at one micro-batch size and in the format of the weights.
        recomputed: whether a pipeline computes again in the backward pass what it did not keep.
    """
    width = max((transformer_width(profile.operators) for profile in profiles), default=0)
    return [_block_time(profile.operators, recomputed, width) for profile in profiles]


def transformer_width(operators: Sequence[Operator]) -> int:
    """Features of a transformer's layer, 0 for what is none: two batched products with a softmax between them."""
    batched = [place for place, operator in enumerate(operators) if _is_product(operator) and operator.sizes[0] > 1]
    softmax = [place for place, operator in enumerate(operators) if operator.kind == "softmax"]
    plain = [operator.sizes[2] for operator in operators if _is_product(operator) and operator.sizes[0] == 1]
    attends = any(before < place < after for before, after in zip(batched, batched[1:]) for place in softmax)
    return min(plain) if attends and plain else 0


def find_schnet_block(operators: Sequence[Operator]) -> Optional[SchNetBlock]:
    """A block of SchNet by its operators; None for anything else, tabulated filters included.

    Senders are gathered and messages added up, once or once each way; two products make filters out of Gaussians, and
    three work on atoms.
    """
    products = [operator.sizes for operator in operators if _is_product(operator)]
    gathers = [operator.sizes for operator in operators if operator.kind == "gather"]
    scatters = [operator.sizes for operator in operators if operator.kind == "scatter"]
    if len(products) != 5 or len(gathers) != len(scatters) or len(gathers) not in (1, 2) or len(set(gathers)) != 1:
        return None
    atoms, filters, messages = gathers[0]
    if set(scatters) != {(messages, filters, atoms)}:
        return None
    gaussians = next((k for batch, m, k, n in products if (batch, m, n) == (1, messages, filters)), 0)
    for features in sorted({k for _, m, k, _ in products if m == atoms}):
        layers = [(features, filters), (filters, features), (features, features)]
        expected = [(1, messages, gaussians, filters), (1, messages, filters, filters)]
        expected += [(1, atoms, k, n) for k, n in layers]
        if sorted(products) == sorted(expected):
            return SchNetBlock(atoms, messages, gaussians, filters, features, both_ways=len(gathers) == 2)
    return None


def schnet_block_seconds(block: SchNetBlock, plain_softplus: float, recomputed: bool, half: bool) -> BlockTime:
    """A block of SchNet.

    Args:
        block: its sizes.
        plain_softplus: elements that go through torch's own softplus, which is slower than the measured one.
        recomputed: see `block_times`.
        half: whether it works in 16 bits.
    """
    passes = known.PASSES_RECOMPUTED if recomputed else known.PASSES
    atoms, messages, gaussians, filters, features, both_ways = block
    forward = block_cycles(atoms, messages, filters, max(features, filters)) - known.BLOCK_LOOP
    # Next to everything else a Gaussian more or less is little; its product is all that it adds.
    forward += product_cycles(messages * filters * gaussians, False)
    forward -= product_cycles(messages * filters * known.BLOCK_GAUSSIANS, False)
    measured = passes * forward + passes / known.PASSES * known.PLAIN_SOFTPLUS * plain_softplus / TILES
    largest = (messages, atoms, max(features, filters))
    inside = not half and all(size <= 2 * most for size, most in zip(largest, known.LARGEST_BLOCK))
    factor = known.OPERATORS_FACTOR if half else known.MEASURED_FACTOR if inside else known.EXTRAPOLATED_FACTOR
    seconds = within(measured / known.CLOCK, factor)
    if both_ways:
        again = [
            Operator("gather", (atoms, filters, messages), half, True),
            Operator("element-wise", (messages * filters,), half, True),
            Operator("scatter", (messages, filters, atoms), half, True),
            Operator("element-wise", (atoms * filters,), half, True),
        ]
        seconds = seconds + _added_up(again, recomputed)
    return BlockTime(seconds, MEASURED if inside else EXTRAPOLATED)


def _block_time(operators: Sequence[Operator], recomputed: bool, width: int) -> BlockTime:
    """One block of a model that is a transformer of so many features, or none if they are 0."""
    block = find_schnet_block(operators)
    if block is not None:
        softplus = sum(operator.sizes[0] for operator in operators if operator.kind == "softplus")
        half = any(operator.half for operator in operators if _is_product(operator))
        return schnet_block_seconds(block, softplus, recomputed, half)
    added_up = _added_up(operators, recomputed)
    if not width:
        return BlockTime(added_up, ADDED_UP)
    by_rule = _transformer_seconds(operators, recomputed)
    if width < known.TRANSFORMER_WIDTH:
        return BlockTime(within(max(by_rule, added_up.likely), known.SMALL_TRANSFORMER_FACTOR), SMALL)
    if by_rule < added_up.likely:
        return BlockTime(added_up, ADDED_UP)
    return BlockTime(within(by_rule, known.TRANSFORMER_FACTOR), TUNED)


def _transformer_seconds(operators: Sequence[Operator], recomputed: bool) -> float:
    """By the rule of tuned trainings, all of which recompute; the work that it counts is without that."""
    # Products in 32 bits move twice the bytes.
    work = sum(operator.multiply_adds * (1 if operator.half else 2) for operator in operators)
    saved = 1.0 if recomputed else known.PASSES / known.PASSES_RECOMPUTED
    return saved * known.PASSES * 2 * work / (known.TRANSFORMER_REACH * known.PEAK_HALF)


def _added_up(operators: Sequence[Operator], recomputed: bool) -> Span:
    cycles = sum(training_cycles(operator, recomputed) for operator in operators)
    return within(cycles / known.CLOCK, known.OPERATORS_FACTOR) if operators else NOTHING


def _is_product(operator: Operator) -> bool:
    return operator.kind == "product"
