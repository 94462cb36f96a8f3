"""A certificate in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from normbench.certificates.certificate import Certificate, N
from normbench.text import as_list

# The facts on where a norm trains, and the place in words.
PLACES = {
    "at_batch_1": "at batch 1",
    "on_1x1_maps": "on 1x1 maps",
    "at_batch_2_on_1x1_maps": "at batch 2 on 1x1 maps",
    "at_batch_1_on_1x1_maps": "at batch 1 on 1x1 maps",
}


def sentences(certificate: Certificate, alike: Mapping[str, Sequence[str]], name: str) -> list[str]:
    """The facts, a sentence each; those that differ in a warm-up once more.

    alike: other norms that compute the same as this one, by the place where they do.
    """
    if certificate.refused is not None:
        return [f"{name} is refused: {certificate.refused}."]
    told = [*_facts(certificate)]
    if certificate.in_warm_up is not None:
        for sentence in _facts(certificate.in_warm_up):
            if sentence not in told:
                told.append(f"In warm-up: {sentence[0].lower()}{sentence[1:]}")
    for place, others in alike.items():
        told.append(f"{place}, {name} is {as_list(others)}.")
    return told


def _facts(found: Certificate) -> Iterator[str]:
    yield _sharing(found.shares_statistics_over)
    yield _moments(found)
    if found.standardizes_weights_of_fan_in:
        fan_ins = as_list(found.standardizes_weights_of_fan_in)
        yield f"The filters of a convolution have mean 0 and equal variances, at fan-in {fan_ins}."
    if found.identity_covariance_within != "-":
        yield f"Its output's channels are uncorrelated within {found.identity_covariance_within}."
    yield _mates(found)
    if found.order_of_samples_matters:
        yield "In training the order of the samples matters."
    if not found.commutes_with_shifts:
        yield "A shifted map does not give the shifted output."
    if found.evaluates_as_it_trains:
        yield "Evaluation computes what training computes."
    else:
        yield "Evaluation computes something else than training."
    for what, ignored in (("scale", found.ignores_scale_of), ("shift", found.ignores_shift_of)):
        each = as_list([f"per {part}" for part in ignored])
        yield f"It ignores a {what} of its input {each}." if ignored else f"It ignores no {what}."
    if found.ignores_scale_of_weights_of_fan_in:
        fan_ins = as_list(found.ignores_scale_of_weights_of_fan_in)
        yield f"It ignores the scale of the convolution's weights, at fan-in {fan_ins}."
    yield from _outcomes(found)
    saved = f"{found.saved_bytes:g} bytes for each float32 value of its input"
    yield f"For the backward pass it keeps {saved}."
    parts = as_list(found.accumulates_exactly_in_parts_of)
    if parts:
        yield f"Gradients of a batch of {N} accumulate exactly in parts of {parts}."
    else:
        yield f"Gradients of no parts of a batch of {N} add up to the gradient of the batch."
    yield f"Under activation checkpointing: {found.under_activation_checkpointing}."


def _sharing(axes: Sequence[str]) -> str:
    if set(axes) == {"nothing"}:
        return "No cell shares a statistic with another."
    first, *others = axes
    if not others:
        return f"A statistic runs over {first}."
    return f"A statistic runs over {first} in some channels, over {as_list(others)} in others."


def _moments(found: Certificate) -> str:
    means, variances = found.mean_0_over, found.variance_1_over
    if means and means == variances:
        return f"Its output has mean 0 and variance 1 over {as_list(means)}."
    if not means and not variances:
        return "Its output has neither mean 0 nor variance 1 over any axes."
    mean = f"mean 0 over {as_list(means)}" if means else "mean 0 over no axes"
    variance = f"variance 1 over {as_list(variances)}" if variances else "variance 1 over none"
    return f"Its output has {mean}, and {variance}."


def _mates(found: Certificate) -> str:
    training = found.batch_mates_matter_in_training
    evaluation = found.batch_mates_matter_in_evaluation
    if training == evaluation:
        return f"Batch mates {'always' if training else 'never'} change a sample's output."
    when = "training alone" if training else "evaluation alone"
    return f"Batch mates change a sample's output in {when}."


def _outcomes(found: Certificate) -> Iterator[str]:
    """Where training works, or does not; places with the same outcome in one sentence."""
    places: dict[str, list[str]] = {}
    for fact, place in PLACES.items():
        places.setdefault(getattr(found, fact), []).append(place)
    for outcome, where in places.items():
        state, _, reason = outcome.partition(": ")
        if reason:
            yield f"Training is {state} {as_list(where)}: {reason}."
        else:
            yield f"In training it {outcome} {as_list(where)}."
