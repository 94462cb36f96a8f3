"""What a report says of its norms themselves: formula, certificate, and shared cells."""

from __future__ import annotations

from normbench.analysis.figures.cubes import caption, cube_figure
from normbench.analysis.figures.saving import to_svg
from normbench.analysis.figures.style import SIZES
from normbench.analysis.report.page import Drawing, NormPart
from normbench.analysis.study import Study
from normbench.certificates.alike import alike
from normbench.certificates.catalogue import listed
from normbench.certificates.certificate import certify
from normbench.certificates.cube import cube_of
from normbench.certificates.sentences import sentences
from normbench.errors import NormbenchError
from normbench.norms import own

PREFIX = "norm."


def norm_parts(study: Study) -> list[NormPart]:
    """A part for each norm and choice of options of the study's runs.

    Without norms that this version does not have or that refuse the certificate's inputs, and
    without own norms: a report runs no code that the files of a study name.
    """
    known = {}
    for label, run in study.labelled.runs.drop_duplicates("line").set_index("line")["run"].items():
        settings = study.configs.get(run, {})
        options = {
            key.removeprefix(PREFIX): settings[key] for key in settings if key.startswith(PREFIX)
        }
        name = options.pop("name", None)
        if name is None or own.is_own(name):
            continue
        try:
            facts, spec = listed(name, options)
            known[str(label)] = facts, spec, cube_of(str(label), spec)
        except NormbenchError:
            continue
    same = alike({label: spec for label, (_, spec, _) in known.items()})
    parts = []
    for label, (facts, spec, cube) in known.items():
        size = SIZES["column"]
        svg = to_svg(cube_figure(cube, size, has_caption=False), size)
        drawing = Drawing(label, caption([cube]), cube.in_words(), svg)
        told = sentences(certify(spec), same[label], label)
        formula = f"{facts['summary']} {facts['formula']}".replace("`", "").strip()
        parts.append(NormPart(label, facts["title"], formula, told, drawing))
    return parts
