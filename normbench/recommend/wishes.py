"""What matters beyond accuracy: inference in small batches, memory, time, fine-tuning.

Facts of certificates are computed now, at default options; times are of the bench in results/speed.
Each wish gives sentences that say what it changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from normbench.analysis.stats import Ratio
from normbench.audit.evidence import Evidence
from normbench.certificates import Certificate, certify
from normbench.norms import norms as registry
from normbench.recommend.answer import Answer
from normbench.recommend.rule import Interval, smallest

OF_MAPS = ("cnn", "resnet", "style", None)  # kinds of networks whose norms stand on feature maps


@dataclass(frozen=True)
class Wishes:
    """What is asked for. inference_batch: images in a batch of inference, or None."""

    inference_batch: int | None = None
    wants_low_memory: bool = False
    wants_low_time: bool = False


def told(wishes: Wishes, answer: Answer, results: Path) -> list[str]:
    """Sentences on each wish; none on what is not asked for. results: the folder of `speed`."""
    candidates = answer.outcome.candidates
    found: list[str] = []
    if answer.question.is_finetuned:
        found += _finetuning()
    if wishes.inference_batch is not None:
        found += _inference(wishes.inference_batch, candidates)
    if wishes.wants_low_memory:
        found.append(f"--memory low: {_memory(candidates, answer.question.model)}")
    if wishes.wants_low_time:
        found.append(f"--time low: {_time(answer, results)}")
    return found


def certificate_of(norm: str) -> Certificate | None:
    """The norm's certificate; None for one that is not registered, or refuses."""
    is_registered = norm in {entry.name for entry in registry}
    return _certificate(norm) if is_registered else None


@lru_cache(maxsize=64)
def _certificate(norm: str) -> Certificate | None:
    certificate = certify(registry.build(norm, options={}))
    return certificate if certificate.refused is None else None


def _finetuning() -> Iterator[str]:
    # A run of normbench draws its weights from the seed: no setting loads trained ones.
    yield (
        "--finetune: not measured, since every run here starts from drawn weights; what stands "
        "here is of training from the start."
    )
    bn = certificate_of("bn")
    if bn is not None and not bn.batch_mates_matter_in_evaluation:
        yield (
            "A bn that is kept with frozen statistics, as in evaluation, does not see the batch "
            "(certificate)."
        )


def _inference(batch: int, candidates: Sequence[str]) -> Iterator[str]:
    """What an inference batch means to each candidate, alike ones together."""
    groups: dict[str, list[str]] = {}
    for norm in candidates:
        groups.setdefault(_evaluates(norm), []).append(norm)
    for how, norms in groups.items():
        yield f"--inference-batch {batch}: {', '.join(norms)} {how}"
    if not groups:
        yield f"--inference-batch {batch}: no candidate that it could matter to."


def _evaluates(norm: str) -> str:
    certificate = certificate_of(norm)
    if certificate is None:
        return "not certified here: `normbench norms` certifies a norm."
    if certificate.batch_mates_matter_in_evaluation:
        return "evaluates with the batch, so that the size of inference batches matters."
    if certificate.evaluates_as_it_trains:
        return "evaluates as it trains, each image alone: changes nothing (certificate)."
    return "evaluates by running averages: an inference batch changes nothing (certificate)."


def _memory(candidates: Sequence[str], kind: str | None) -> str:
    """Which candidate keeps the fewest bytes for the backward pass."""
    if kind not in OF_MAPS:
        return f"not known for {kind}: certificates count the bytes kept on feature maps."
    if len(candidates) < 2:
        return "changes nothing: it chooses among several candidates only."
    kept: dict[str, Interval | None] = {}
    shown = []
    for norm in candidates:
        certificate = certificate_of(norm)
        known = None if certificate is None else certificate.saved_bytes
        kept[norm] = None if known is None else (known, known)
        shown.append(f"{norm} not certified" if known is None else f"{norm} {known:g}")
    basis = f"bytes kept for the backward pass per float32 value: {', '.join(shown)} (certificate)"
    return _choice(smallest(kept), basis)


def _time(answer: Answer, results: Path) -> str:
    """Which candidate's step is the quickest, by intervals over processes."""
    candidates, batch_size = answer.outcome.candidates, answer.question.batch_size
    if len(candidates) < 2 or batch_size is None:
        return "changes nothing: it chooses among several candidates only."
    evidence = Evidence(results)
    times: dict[str, Interval | None] = {}
    shown = []
    for norm in candidates:
        ratio = evidence.time_of_step(norm, batch_size, answer.network or "")
        times[norm] = None if ratio is None else (ratio.low, ratio.high)
        shown.append(f"{norm} {_ratio_in_words(ratio)}")
    basis = f"a step at batch size {batch_size} relative to bn's: {', '.join(shown)} (speed)"
    return _choice(smallest(times), basis)


def _ratio_in_words(ratio: Ratio | None) -> str:
    if ratio is None:
        return "not timed"
    if math.isnan(ratio.low):
        return f"{ratio.value:.2f}x without an interval"
    return f"{ratio.value:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"


def _choice(norm: str | None, basis: str) -> str:
    if norm is None:
        return f"decides nothing; {basis}."
    return f"{norm}, of those that accuracy leaves; {basis}."
