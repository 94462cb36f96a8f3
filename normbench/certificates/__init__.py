"""Computed facts about a norm: its certificate, and whether it keeps the contract of all norms."""

from normbench.certificates.breaches import broken, defects
from normbench.certificates.certificate import Certificate, certify
from normbench.certificates.contract import CHECKS, Broken

__all__ = ["CHECKS", "Broken", "Certificate", "broken", "certify", "defects"]
