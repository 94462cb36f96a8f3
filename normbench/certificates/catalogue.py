"""All norms side by side: what each is, and its certificate, for people (text, Markdown) and for programs (JSON)."""

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
from normbench.norms.spec import Failed

BATCHES = (1, 2, 3, 4, 8, 16, 32)
MAP = (16, 4, 4)  # channels, height, width

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
Computed by `normbench norms --markdown` on drawn inputs of 32 samples (n), 16 channels (c) and 5x5 pixels (h w), with
all options at their defaults, after some batches and with every warm-up over. State and parameters are numbers of
values beyond the convolution's own weight and bias. c/4 is a quarter of the channels, n/2 half of the samples. Scale
and shift are of the input: other ones for every sample, for every channel, or one for the whole batch. Saved bytes are
what norm and activation keep for the backward pass, per float32 element of the input. Gradients are accumulated over
halves of 16 samples, the size of ghost_bn's chunks."""


@dataclass(frozen=True)
class Listed:
    """A norm as the catalogue lists it. needs_batch: the smallest batch it trains, and on 1x1 maps if that differs."""

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
    """The norm called `name`, registered or own, with the options `given` and the others at their defaults.

    Raises NormbenchError where there is no such norm, Unsupported where its code fails on every batch.
    """
    options = norms.check(name, given)
    spec = norms.build(name, options=options)
    if isinstance(reason := spec.refuse((BATCHES[-1], *MAP)), Failed):
        raise Unsupported(f"norm {name}: {reason}") from reason.error
    parameters, state = ("-", "-") if reason else sizes(spec)
    title, text = _described(name, options)
    return Listed(
        name=name,
        title=title,
        summary=text.partition("\n")[0],
        scope=spec.scope,
        parameters=parameters,
        state=state,
        owns_activation=spec.norm_act is not None,
        needs_batch=_needs_batch(spec),
        paper=next(iter(re.findall(r"arXiv:\d{4}\.\d{5}", text)), ""),
        options=options["options"] if own.is_own(name) else options,
    ), spec


def as_text(rows: Iterable[Listed]) -> str:
    """The catalogue for a terminal, in columns."""
    return _table(CATALOGUE, [_cells(CATALOGUE, row) for row in rows], "simple")


def certificate_text(row: Listed, certificate: Certificate) -> str:
    """One norm's certificate for a terminal, a fact a line."""
    prefix = "norm.options." if own.is_own(row.name) else "norm."
    options = ", ".join(f"{prefix}{key}={json.dumps(value)}" for key, value in row.options.items())
    about = {
        "parameters": row.parameters,
        "state": row.state,
        "scope": row.scope,
        "paper": row.paper,
    }
    facts = [
        (name.replace("_", " "), _said(value))
        for name, value in (about | known(certificate)).items()
    ]
    head = [f"{row.name}: {row.title}", row.summary, f"options: {options or 'none'}"]
    return "\n".join(
        [*filter(None, head), "", tabulate(facts, tablefmt="plain", disable_numparse=True)]
    )


def as_json(row: Listed, certificate: Certificate) -> dict[str, Any]:
    """A norm with its certificate as plain values."""
    return asdict(row) | {"certificate": known(certificate)}


def as_markdown(pairs: Sequence[tuple[Listed, Certificate]]) -> str:
    """The catalogue and the certificates as three Markdown tables."""
    usable = [(row, certificate) for row, certificate in pairs if certificate.refused is None]
    named = {"norm": "name"}
    tables = {
        "Norms": _table(CATALOGUE, [_cells(CATALOGUE, row) for row, _ in pairs]),
        "Statistics": _table(
            named | STATISTICS, [[r.name, *_cells(STATISTICS, facts)] for r, facts in usable]
        ),
        "Training": _table(
            named | TRAINING, [[r.name, *_cells(TRAINING, facts)] for r, facts in usable]
        ),
    }
    sections = [f"## {title}\n\n{table}" for title, table in tables.items()]
    return "\n\n".join(["# Every norm and its certificate", ABOUT, *sections])


def known(certificate: Certificate) -> dict[str, Any]:
    """What the certificate says: of a norm that no classifier can have only why."""
    facts = asdict(certificate)
    if certificate.refused is not None:
        return {"refused": certificate.refused}
    del facts["refused"]
    return facts


def _needs_batch(spec: NormSpec) -> str:
    usual, on_a_pixel = (
        next((str(n) for n in BATCHES if spec.refuse((n, MAP[0], side, side)) is None), "none")
        for side in (MAP[1], 1)
    )
    return usual if usual == on_a_pixel else f"{usual}, on 1x1 maps {on_a_pixel}"


def _described(name: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Title and documentation."""
    if own.is_own(name):
        return own.described(name, options)
    return norms[name].title, inspect.getdoc(norms[name].function) or ""


def _cells(columns: dict[str, str], row: Listed | Certificate) -> list[str]:
    """What the columns' attributes say; a refusal's reason is left to the norm's own certificate."""
    return [
        re.sub("^refused: .*", "refused", _said(getattr(row, name))) for name in columns.values()
    ]


def _said(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) or "-" if isinstance(value, tuple) else str(value)


def _table(columns: Iterable[str], rows: list[list[str]], style: str = "github") -> str:
    return tabulate(rows, list(columns), tablefmt=style, disable_numparse=True)
