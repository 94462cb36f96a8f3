"""All norms side by side: facts and certificates as text, Markdown (results/norms.md) and JSON."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from normbench.certificates.certificate import Certificate, sizes
from normbench.errors import Unsupported
from normbench.norms import NormSpec, norms, own

# Batch sizes tried to find the smallest that a norm trains.
BATCHES = (1, 2, 3, 4, 8, 16, 32)
MAP = (16, 4, 4)  # channels, height, width

# Column headings, and the attributes of Listed or Certificate that the columns show.
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


@dataclass(frozen=True)
class Listed:
    """A norm's row of the catalogue.

    needs_batch: the smallest batch size that the norm trains, and on 1x1 maps where that differs.
    """

    name: str
    title: str
    summary: str
    scope: str
    parameters: str
    state: str
    owns_activation: bool
    needs_batch: str
    paper: str
    options: dict[str, Any]


def listed(name: str, given: Mapping[str, Any]) -> tuple[Listed, NormSpec]:
    """The row and the NormSpec of a registered or own norm with the options `given`.

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
    title, text = _described(name, options)
    papers = re.findall(r"arXiv:\d{4}\.\d{5}", text)
    row = Listed(
        name=name,
        title=title,
        summary=text.partition("\n")[0],
        scope=spec.scope,
        parameters=parameters,
        state=state,
        owns_activation=spec.norm_act is not None,
        needs_batch=_needs_batch(spec),
        paper=papers[0] if papers else "",
        options=options["options"] if own.is_own(name) else options,
    )
    return row, spec


def as_text(rows: Iterable[Listed]) -> str:
    """The catalogue as columns for a terminal."""
    return _table(CATALOGUE, [_cells(CATALOGUE, row) for row in rows], "simple")


def certificate_text(row: Listed, certificate: Certificate) -> str:
    """A norm's certificate for a terminal, a fact a line."""
    prefix = "norm.options." if own.is_own(row.name) else "norm."
    options = [f"{prefix}{key}={json.dumps(value)}" for key, value in row.options.items()]
    facts = {
        "parameters": row.parameters,
        "state": row.state,
        "scope": row.scope,
        "paper": row.paper,
    }
    facts |= known(certificate)
    lines = [(name.replace("_", " "), _shown(value)) for name, value in facts.items()]
    head = [f"{row.name}: {row.title}"]
    if row.summary:
        head.append(row.summary)
    head.append(f"options: {', '.join(options) or 'none'}")
    return "\n".join([*head, "", tabulate(lines, tablefmt="plain", disable_numparse=True)])


def as_json(row: Listed, certificate: Certificate) -> dict[str, Any]:
    """A norm and its certificate as plain values."""
    return asdict(row) | {"certificate": known(certificate)}


def as_markdown(pairs: Sequence[tuple[Listed, Certificate]]) -> str:
    """Catalogue and certificates as three Markdown tables; a refused norm is in the first alone."""
    catalogue = [_cells(CATALOGUE, row) for row, _ in pairs]
    sections = ["# Every norm and its certificate", ABOUT]
    sections.append(f"## Norms\n\n{_table(CATALOGUE, catalogue)}")
    for title, columns in (("Statistics", STATISTICS), ("Training", TRAINING)):
        rows = []
        for row, certificate in pairs:
            if certificate.refused is None:
                rows.append([row.name, *_cells(columns, certificate)])
        sections.append(f"## {title}\n\n{_table(['norm', *columns], rows)}")
    return "\n\n".join(sections)


def known(certificate: Certificate) -> dict[str, Any]:
    """The certificate's facts by name; only the reason where the norm refuses."""
    if certificate.refused is not None:
        return {"refused": certificate.refused}
    facts = asdict(certificate)
    del facts["refused"]
    return facts


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


def _described(name: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Title and docstring."""
    if own.is_own(name):
        return own.described(name, options)
    return norms[name].title, inspect.getdoc(norms[name].function) or ""


def _cells(columns: Mapping[str, str], row: Listed | Certificate) -> list[str]:
    """The columns' values; of a refusal only the word, as the reason would widen the table."""
    cells = [_shown(getattr(row, name)) for name in columns.values()]
    return [re.sub("^refused: .*", "refused", cell) for cell in cells]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return str(value)


def _table(columns: Iterable[str], rows: list[list[str]], style: str = "github") -> str:
    return tabulate(rows, list(columns), tablefmt=style, disable_numparse=True)
