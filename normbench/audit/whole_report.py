"""A study's report with all its parts: what norms do, computed, and the claims it decides."""

from __future__ import annotations

from pathlib import Path

from normbench.analysis.report import write_report
from normbench.analysis.study import Study
from normbench.audit.account import claim_parts
from normbench.certificates.parts import norm_parts


def write_whole_report(study: Study, folder: Path, command: str | None = None) -> Path:
    """Writes the report to a folder, and returns the path of its page.

    command: the command of the report, for the page. Raises NormbenchError as `write_report`.
    """
    return write_report(study, folder, command, norm_parts(study), claim_parts(study))
