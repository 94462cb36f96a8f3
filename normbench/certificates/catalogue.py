"""All norms side by side: facts and certificates as text, Markdown (results/norms.md) and JSON."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from normbench.certificates.certificate import PARTS, Certificate
from normbench.certificates.outcome import ONLY_SIGNS, WORKS, outcome
from normbench.certificates.probes import one_thread
from normbench.certificates.sizes import sizes
from normbench.errors import Unsupported
from normbench.norms import NormSpec, norms, own
from normbench.text import markdown_cell, visible

# Batch sizes tried to find the smallest that a norm trains.
BATCHES = (1, 2, 3, 4, 8, 16, 32)
MAP = (16, 4, 4)  # channels, height, width
TOKENS = (16, 16)  # channels, tokens

Facts = dict[str, Any]
ON_TOKENS = ("1x1 maps", "single tokens")  # what a fact of maps is called of tokens
# Column headings, and the facts that the columns show.
CATALOGUE = {
    "norm": "name",
    "title": "title",
    "scope": "scope",
    "state": "state",
    "parameters": "parameters",
    "owns activation": "owns_activation",
    "needs batch >=": "needs_batch",
    "paper": "paper",
}
STATISTICS = {
    "norm": "name",
    "shares statistics over": "shares_statistics_over",
    "mean 0 over": "mean_0_over",
    "variance 1 over": "variance_1_over",
    "identity covariance within": "identity_covariance_within",
    "standardizes weights of fan-in": "standardizes_weights_of_fan_in",
    "batch mates matter in training": "batch_mates_matter_in_training",
    "they matter in evaluation": "batch_mates_matter_in_evaluation",
    "order of samples matters": "order_of_samples_matters",
    "evaluates as it trains": "evaluates_as_it_trains",
    "commutes with shifts of the map": "commutes_with_shifts",
    "ignores scale of": "ignores_scale_of",
    "ignores shift of": "ignores_shift_of",
    "ignores scale of weights of fan-in": "ignores_scale_of_weights_of_fan_in",
}
TRAINING = {
    "norm": "name",
    "at batch 1": "at_batch_1",
    "on 1x1 maps": "on_1x1_maps",
    "at batch 2 on 1x1 maps": "at_batch_2_on_1x1_maps",
    "at batch 1 on 1x1 maps": "at_batch_1_on_1x1_maps",
    "saved bytes per element": "saved_bytes",
    "accumulates exactly in parts of": "accumulates_exactly_in_parts_of",
    "under activation checkpointing": "under_activation_checkpointing",
}
ABOUT = """\
Computed by `normbench norms --markdown` on drawn inputs of 32 samples (n), 16 channels (c) and 5x5
pixels (h w), with all options at their defaults, after some batches and with every warm-up over. A
row "in warm-up" has the facts of the first batches, where they differ. Means, variances,
covariances, and what is ignored or standardized hold to 0.1 % of the largest value, since eps
disturbs them; other facts hold to a millionth. Cells share a statistic where the value of one
enters the output at the other, in training; two entries are of different channels. {types}

State and parameters are numbers of values beyond the convolution's own weight and bias. Only signs
of an input are kept where each channel of the output takes two values. c/4 is a quarter of the
channels, n/2 half of the samples. Scale and shift are a factor and an offset of the input, drawn
for each sample, for each channel, or once for the batch; maps are shifted in a circle. Convolutions
have the smallest and the largest fan-in of NormResNet, 27 and 2304. Saved bytes are kept by norm
and activation for the backward pass, per float32 element of the input. Gradients of a batch
accumulate exactly where those of its parts add up to them; parts of {parts} samples are tried."""


@one_thread()
def listed(name: str, given: Mapping[str, Any], *, tokens: bool = False) -> tuple[Facts, NormSpec]:
    """The facts of a registered or own norm with the options `given`, by name, and its NormSpec.

    tokens: at sites of tokens, where no activation follows, instead of maps.
    needs_batch is the smallest batch size that the norm trains on more than signs, in brackets a
    smaller one of which signs are left, and both on 1x1 maps, or single tokens, where they differ.
    summary and formula
    are the first line and the rest of the docstring.
    Raises NormbenchError where no such norm exists, Unsupported where its code fails on a batch.
    """
    options = norms.check(name, given)
    spec = norms.build(name, options=options)
    refusal = spec.refusal((BATCHES[-1], *(TOKENS if tokens else MAP)))
    parameters, state = "-", "-"
    if refusal is None:
        parameters, state = sizes(spec, tokens=tokens)
    elif refusal.error is not None:
        raise Unsupported(f"norm {name}: {refusal.reason}") from refusal.error
    if own.is_own(name):
        title, text = own.described(name, options)
        options = options["options"]
    else:
        title, text = norms[name].title, inspect.getdoc(norms[name].function) or ""
    paper = re.search(r"arXiv:\d{4}\.\d{5}", text)
    summary, _, body = text.partition("\n")
    facts = {
        "name": name,
        "title": title,
        "summary": summary,
        "formula": " ".join(body.split()),
        "scope": (spec.on_tokens if tokens else spec).scope,
        "parameters": parameters,
        "state": state,
        "owns_activation": spec.norm_act is not None and not tokens,
        "needs_batch": _needs_batch(spec, tokens=tokens),
        "paper": paper.group() if paper else "",
        "options": options,
    }
    return facts, spec


def as_text(norms: Iterable[Facts]) -> str:
    """The catalogue as columns for a terminal."""
    return _table(CATALOGUE, norms, "simple")


def certificate_text(facts: Facts, certificate: Certificate, *, tokens: bool = False) -> str:
    """A norm's certificate for a terminal, a fact a line; tokens: of a site of tokens."""
    prefix = "norm.options." if own.is_own(facts["name"]) else "norm."
    options = [f"{prefix}{key}={json.dumps(value)}" for key, value in facts["options"].items()]
    head = [visible(f"{facts['name']}: {facts['title']}")]
    if facts["summary"]:
        head.append(visible(facts["summary"]))
    head.append(f"options: {', '.join(options) or 'none'}")
    shown = {key: facts[key] for key in ("parameters", "state", "scope", "paper")}
    shown |= known(certificate)
    for key, value in (shown.pop("in_warm_up", None) or {}).items():
        shown[f"in warm-up: {key}"] = value
    lines = []
    for key, value in shown.items():
        words = key.replace("_", " ")
        lines.append((words.replace(*ON_TOKENS) if tokens else words, _shown(value)))
    return "\n".join([*head, "", tabulate(lines, tablefmt="plain", disable_numparse=True)])


def as_markdown(pairs: Sequence[tuple[Facts, Certificate]]) -> str:
    """Catalogue and certificates as three Markdown tables; a refused norm is in the first alone."""
    certified = []
    for facts, certificate in pairs:
        if certificate.refused is not None:
            continue
        row = facts | known(certificate)
        certified.append(row)
        if row["in_warm_up"]:
            named = {"name": f"{facts['name']} in warm-up"}
            certified.append(row | row["in_warm_up"] | named)
    tables = [
        ("Norms", CATALOGUE, [facts for facts, _ in pairs]),
        ("Statistics", STATISTICS, certified),
        ("Training", TRAINING, certified),
    ]
    about = ABOUT.format(types=_types(certified), parts=_shown(PARTS))
    sections = ["# Every norm and its certificate", about]
    for title, columns, rows in tables:
        sections.append(f"## {title}\n\n{_table(columns, rows, 'github')}")
    return "\n\n".join(sections)


def known(certificate: Certificate) -> Facts:
    """The certificate's facts by name, in_warm_up those that differ there.

    Only the reason where the norm refuses.
    """
    facts = asdict(certificate)
    refused = facts.pop("refused")
    if refused is not None:
        return {"refused": refused}
    if certificate.in_warm_up is not None:
        first = known(certificate.in_warm_up)
        del first["in_warm_up"]
        facts["in_warm_up"] = {key: first[key] for key in first if first[key] != facts[key]}
    return facts


def _types(certified: Sequence[Facts]) -> str:
    """A sentence about the types that the norms' layers compute in, from float64 inputs."""
    narrower = []
    for row in certified:
        if row["computes_in"] != "float64":
            narrower.append(f"{row['name']} ({row['computes_in']})")
    if not narrower:
        return "All layers compute in float64."
    return f"Layers compute in float64, but {', '.join(narrower)}."


def _needs_batch(spec: NormSpec, *, tokens: bool) -> str:
    many, one = (TOKENS, (TOKENS[0], 1)) if tokens else (MAP, (MAP[0], 1, 1))
    on_many, on_one = _smallest_batch(spec, many), _smallest_batch(spec, one)
    if on_many == on_one:
        return on_many
    return f"{on_many}, on {ON_TOKENS[tokens]} {on_one}"


def _smallest_batch(spec: NormSpec, site: tuple[int, ...]) -> str:
    only_signs = ""
    for size in BATCHES:
        found = outcome(spec, (size, *site))
        if found == WORKS:
            return f"{size}{only_signs}"
        if found == ONLY_SIGNS and not only_signs:
            only_signs = f" ({size}: only signs)"
    return f"none{only_signs}"


def _table(columns: Mapping[str, str], norms: Iterable[Facts], style: str) -> str:
    rows = []
    for facts in norms:
        cells = [_shown(facts[key]) for key in columns.values()]
        if style == "github":
            cells = [markdown_cell(cell) for cell in cells]
        # Of a refusal only the word, as the reason would widen the table.
        rows.append([re.sub("^refused: .*", "refused", cell) for cell in cells])
    return tabulate(rows, list(columns), tablefmt=style, disable_numparse=True)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return visible(str(value))
