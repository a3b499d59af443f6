"""A prediction with how far off it may be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Seconds, or a rate, between two bounds; none of them measured on the machine in question.

    Attributes:
        least, likely, most: in ascending order.
    """

    least: float
    likely: float
    most: float

    def __post_init__(self) -> None:
        assert 0 <= self.least <= self.likely <= self.most, f"{self} is in no order"

    def __add__(self, other: "Span") -> "Span":
        return Span(self.least + other.least, self.likely + other.likely, self.most + other.most)

    def __mul__(self, factor: float) -> "Span":
        return Span(self.least * factor, self.likely * factor, self.most * factor)

    def rate(self, amount: float) -> "Span":
        """So much of something in these seconds, a second."""
        return Span(amount / self.most, amount / self.likely, amount / self.least)


def within(likely: float, factor: float) -> Span:
    """From ``likely / factor`` to ``likely * factor``; the factor is 1 or more."""
    return Span(likely / factor, likely, likely * factor)


NOTHING = Span(0.0, 0.0, 0.0)
