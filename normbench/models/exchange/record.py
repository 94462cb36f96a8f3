"""What an exchange of norms did, or would do, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from normbench.models.sites import Site


@dataclass(frozen=True)
class ExchangedSite:
    """A norm of a network, and what stands in its place.

    name: the qualified name, such as layer1.0.bn1.
    found: the class that stood there.
    shape: (c, *places) of its input.
    feeder: the convolution or linear layer that feeds it and nothing else, by its name, or None.
    activation: the activation that follows it and nothing else, such as ReLU, or None.
    made: the class that stands there now; None where the norm is refused.
    replaces_activation: whether the new norm is in the activation's place, too.
    refusal: why no norm, or not this one, can stand there; None where it can.
    remarks: what else there is to know.
    """

    name: str
    found: str
    shape: Site
    feeder: str | None
    activation: str | None
    made: str | None
    replaces_activation: bool
    refusal: str | None
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = "x".join(map(str, self.shape))
        if self.feeder:
            where += f", after {self.feeder}"
        if self.activation:
            where += f", before {self.activation}"
        before = self.found
        if self.replaces_activation:
            before += f" and {self.activation}"
        after = self.made if self.refusal is None else f"refused: {self.refusal}"
        notes = "".join(f"; {remark}" for remark in self.remarks)
        return f"{self.name} ({where}): {before} -> {after}{notes}"


@dataclass(frozen=True)
class Exchange:
    """The sites of a network's norms in forward order, and remarks on the network as a whole.

    least_batch: the fewest images on which the norms that were left in their places can train.
    """

    sites: tuple[ExchangedSite, ...]
    remarks: tuple[str, ...] = ()
    least_batch: int = 1

    def lines(self) -> Iterator[str]:
        """A line for each remark, then for each site."""
        yield from self.remarks
        yield from map(str, self.sites)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def too_few(record: Exchange) -> str:
    """Why batches smaller than `least_batch` are refused."""
    return f"a BatchNorm that was left on features (n, c) takes {record.least_batch} images or more"
