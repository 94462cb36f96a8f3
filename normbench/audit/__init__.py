"""The audit: which of the usual sentences about normalization hold, by measurements."""

from normbench.audit.claims import Claim, Judged, judge, load_claims
from normbench.audit.verdicts import Finding, Verdict

__all__ = ["Claim", "Finding", "Judged", "Verdict", "judge", "load_claims"]
