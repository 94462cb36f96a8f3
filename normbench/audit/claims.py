"""The claims of configs/claims.yaml, and the judgement of each by what has been measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter

from normbench.analysis.study import Study
from normbench.audit.evidence import Evidence, folder_of
from normbench.audit.exact import EXACT
from normbench.audit.learning import LEARNING
from normbench.audit.source_runs import SOURCE_RUNS
from normbench.audit.studied import STUDIED
from normbench.audit.trained import TRAINED
from normbench.audit.verdicts import Finding, Verdict
from normbench.certificates.probes import one_thread
from normbench.config.compose import config_dir
from normbench.errors import NormbenchError, unknown

# What a claim may be `by`, beside the name of a study.
COMPUTED = "exact"
OPEN = "open"
BENCH = "speed"

JUDGES: dict[str, Callable[[Evidence], Finding]] = {
    **STUDIED,
    **LEARNING,
    **TRAINED,
    **SOURCE_RUNS,
}


class Claim(BaseModel):
    """A claim of a source, with what is expected and the rule, both written before measuring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    source: str
    claim: str
    expected: str
    rule: str
    by: str
    contrary: str | None = None

    @property
    def command(self) -> str:
        """The command that gives the figures."""
        if self.by == COMPUTED:
            return f"normbench audit {self.id}"
        if self.by == OPEN:
            return "none yet"
        if self.by == BENCH:
            return "normbench bench batch_size=1,8,64 -o results/speed"
        where = f"data=cifar10_parquet data.root=PATH -o results/{folder_of(self.by)}"
        return f"normbench sweep {self.by} {where}"


@dataclass(frozen=True)
class Judged:
    """A claim with the verdict and the figures, and the claim that contradicts it, if any."""

    claim: Claim
    finding: Finding
    contrary: Judged | None = None


def load_claims() -> list[Claim]:
    """The claims in the order of the file."""
    content = yaml.safe_load((config_dir() / "claims.yaml").read_text(encoding="utf-8"))
    return TypeAdapter(list[Claim]).validate_python(content)


def judge(names: Sequence[str], results: Path) -> list[Judged]:
    """The claims called `names`, or all, judged by the studies in `results` and computed now.

    Raises NormbenchError for an unknown claim, for a missing folder, and for a study whose files
    are damaged.
    """
    if not results.is_dir():
        raise NormbenchError(f"no folder '{results}': --results names the folder with the studies")
    claims = {claim.id: claim for claim in load_claims()}
    for name in names:
        if name not in claims:
            raise unknown("claim", name, claims)
    evidence = Evidence(results)
    found = []
    for name in names or claims:
        claim, contrary = claims[name], None
        if claim.contrary is not None:
            other = claims[claim.contrary]
            contrary = Judged(other, _finding(other, evidence))
        found.append(Judged(claim, _finding(claim, evidence), contrary))
    return found


def decided_by(study: Study) -> list[Judged]:
    """The claims that this study decides, judged by it alone; none for runs of no study.

    Raises NormbenchError for comparisons that are there twice.
    """
    if study.design is None:
        return []
    name = study.design.name
    evidence = Evidence(Path(), {name: study})
    found = []
    for claim in load_claims():
        if claim.by == name:
            found.append(Judged(claim, _finding(claim, evidence)))
    return found


@one_thread()
def _finding(claim: Claim, evidence: Evidence) -> Finding:
    if claim.id in EXACT:
        return EXACT[claim.id]()
    if claim.id in JUDGES:
        found = JUDGES[claim.id](evidence)
        if found.verdict != Verdict.UNMEASURED or found.figures:
            return found
    told = "There is no study of it yet."
    if claim.id in JUDGES:
        told = f"The study {claim.by} would decide it."
    elif claim.by != OPEN:
        told = f"The study {claim.by} would decide it, by a rule that is not computed yet."
    return Finding(Verdict.UNMEASURED, (told,))
