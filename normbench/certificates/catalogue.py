"""All norms side by side: facts and certificates as text, Markdown (results/norms.md) and JSON."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from normbench.certificates.certificate import Certificate, sizes
from normbench.errors import Unsupported
from normbench.norms import NormSpec, norms, own
from normbench.text import markdown_cell, visible

# Batch sizes tried to find the smallest that a norm trains.
BATCHES = (1, 2, 3, 4, 8, 16, 32)
MAP = (16, 4, 4)  # channels, height, width

Facts = dict[str, Any]
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
    "mean 0 over": "mean_0_over",
    "variance 1 over": "variance_1_over",
    "standardizes weights": "standardizes_weights",
    "batch mates matter in training": "batch_mates_matter_in_training",
    "they matter in evaluation": "batch_mates_matter_in_evaluation",
    "evaluates as it trains": "evaluates_as_it_trains",
    "ignores scale of": "ignores_scale_of",
    "ignores shift of": "ignores_shift_of",
    "ignores scale of weights": "ignores_scale_of_weights",
}
TRAINING = {
    "norm": "name",
    "at batch 1": "at_batch_1",
    "on 1x1 maps": "on_1x1_maps",
    "at batch 1 on 1x1 maps": "at_batch_1_on_1x1_maps",
    "saved bytes per element": "saved_bytes",
    "gradient accumulation is exact": "gradient_accumulation_is_exact",
    "under activation checkpointing": "under_activation_checkpointing",
}
ABOUT = """\
Computed by `normbench norms --markdown` on drawn inputs of 32 samples (n), 16 channels (c) and 5x5
pixels (h w), with all options at their defaults, after some batches and with every warm-up over.
State and parameters are numbers of values beyond the convolution's own weight and bias. c/4 is a
quarter of the channels, n/2 half of the samples. Scale and shift are a factor and an offset of the
input, drawn for each sample, for each channel, or once for the batch. Saved bytes are kept by norm
and activation for the backward pass, per float32 element of the input. Gradients are accumulated
over halves of 16 samples, the size of ghost_bn's chunks."""


def listed(name: str, given: Mapping[str, Any]) -> tuple[Facts, NormSpec]:
    """The facts of a registered or own norm with the options `given`, by name, and its NormSpec.

    needs_batch is the smallest batch size that the norm trains, and on 1x1 maps where that differs.
    Raises NormbenchError where no such norm exists, Unsupported where its code fails on a batch.
    """
    options = norms.check(name, given)
    spec = norms.build(name, options=options)
    refusal = spec.refuse((BATCHES[-1], *MAP))
    parameters, state = "-", "-"
    if refusal is None:
        parameters, state = sizes(spec)
    elif refusal.error is not None:
        raise Unsupported(f"norm {name}: {refusal.reason}") from refusal.error
    if own.is_own(name):
        title, text = own.described(name, options)
        options = options["options"]
    else:
        title, text = norms[name].title, inspect.getdoc(norms[name].function) or ""
    paper = re.search(r"arXiv:\d{4}\.\d{5}", text)
    facts = {
        "name": name,
        "title": title,
        "summary": text.partition("\n")[0],
        "scope": spec.scope,
        "parameters": parameters,
        "state": state,
        "owns_activation": spec.norm_act is not None,
        "needs_batch": _needs_batch(spec),
        "paper": paper.group() if paper else "",
        "options": options,
    }
    return facts, spec


def as_text(norms: Iterable[Facts]) -> str:
    """The catalogue as columns for a terminal."""
    return _table(CATALOGUE, norms, "simple")


def certificate_text(facts: Facts, certificate: Certificate) -> str:
    """A norm's certificate for a terminal, a fact a line."""
    prefix = "norm.options." if own.is_own(facts["name"]) else "norm."
    options = [f"{prefix}{key}={json.dumps(value)}" for key, value in facts["options"].items()]
    head = [visible(f"{facts['name']}: {facts['title']}")]
    if facts["summary"]:
        head.append(visible(facts["summary"]))
    head.append(f"options: {', '.join(options) or 'none'}")
    shown = {key: facts[key] for key in ("parameters", "state", "scope", "paper")}
    shown |= known(certificate)
    lines = [(key.replace("_", " "), _shown(value)) for key, value in shown.items()]
    return "\n".join([*head, "", tabulate(lines, tablefmt="plain", disable_numparse=True)])


def as_markdown(pairs: Sequence[tuple[Facts, Certificate]]) -> str:
    """Catalogue and certificates as three Markdown tables; a refused norm is in the first alone."""
    certified = []
    for facts, certificate in pairs:
        if certificate.refused is None:
            certified.append(facts | known(certificate))
    tables = [
        ("Norms", CATALOGUE, [facts for facts, _ in pairs]),
        ("Statistics", STATISTICS, certified),
        ("Training", TRAINING, certified),
    ]
    sections = ["# Every norm and its certificate", ABOUT]
    for title, columns, rows in tables:
        sections.append(f"## {title}\n\n{_table(columns, rows, 'github')}")
    return "\n\n".join(sections)


def known(certificate: Certificate) -> Facts:
    """The certificate's facts by name; only the reason where the norm refuses."""
    facts = asdict(certificate)
    refused = facts.pop("refused")
    return facts if refused is None else {"refused": refused}


def _needs_batch(spec: NormSpec) -> str:
    on_maps, on_pixels = _smallest_batch(spec, MAP), _smallest_batch(spec, (MAP[0], 1, 1))
    if on_maps == on_pixels:
        return on_maps
    return f"{on_maps}, on 1x1 maps {on_pixels}"


def _smallest_batch(spec: NormSpec, site: tuple[int, ...]) -> str:
    for size in BATCHES:
        if spec.refuse((size, *site)) is None:
            return str(size)
    return "none"


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
        return ", ".join(value) or "-"
    return visible(str(value))
