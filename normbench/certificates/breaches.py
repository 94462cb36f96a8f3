"""The demands of the contract that a norm breaks: all of them, or those its figures rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from normbench.certificates import contract
from normbench.certificates.contract import SHAPE, Broken, Check, one_line
from normbench.certificates.probes import one_thread
from normbench.norms import NormSpec
from normbench.norms.spec import Shape

# Numbers of channels to try a norm on, until its options fit: 32 groups need 32 channels.
CHANNELS = (16, 32, 48, 64, 96, 128)
# Without these demands the figures of a run are not those of the norm. A run takes 0.05 s for them.
DEFECTS: dict[Check, str] = {
    contract.keeps_shape_and_type: "changes the shape or type of its input",
    contract.evaluates_samples_alone: "evaluates with batch mates",
    contract.evaluates_without_a_trace: "changes its state in evaluation",
    contract.saves_and_loads: "keeps state outside its checkpoint",
    contract.repeats_itself: "does not repeat itself",
}


def broken(spec: NormSpec) -> Iterator[tuple[str, str | None]]:
    """Each demand (the docstring of its check) and the failure, None where the demand holds.

    Raises Broken for a norm that works with none of CHANNELS.
    """
    shape = _accepted_shape(spec, CHANNELS)
    for check in contract.CHECKS:
        yield (check.__doc__ or "").rstrip("."), _failure(check, spec, shape)


def defects(spec: NormSpec, channels: Sequence[int]) -> dict[str, str]:
    """The failure in one line of each broken demand of DEFECTS, by a short phrase.

    channels: numbers of channels to try, the first that the norm accepts. torch's default random
    numbers continue as if nothing had been tried.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            shape = _accepted_shape(spec, channels)
        except Broken as error:
            return {"could not be tried": str(error)}
        failures = {phrase: _failure(check, spec, shape) for check, phrase in DEFECTS.items()}
    return {phrase: failure for phrase, failure in failures.items() if failure is not None}


def _accepted_shape(spec: NormSpec, channels: Sequence[int]) -> Shape:
    """SHAPE with the first of these numbers of channels that the norm accepts.

    Raises Broken, from the error in an own norm's code, for a norm that accepts none.
    """
    refusals = []
    for number in channels:
        shape = (SHAPE[0], number, *SHAPE[2:])
        refusal = spec.refuse(shape)
        if refusal is None:
            return shape
        refusals.append(refusal)
    tried = ", ".join(map(str, channels))
    reason = f"{refusals[0].reason}; it works with none of {tried} channels"
    raise Broken(reason) from refusals[0].error


@one_thread()
def _failure(check: Check, spec: NormSpec, shape: Shape) -> str | None:
    """The failure of the check in one line, an exception in the norm's code too; None if none."""
    try:
        check(spec, shape)
    except Broken as error:
        return str(error)
    except Exception as error:
        return one_line(error)
    return None
