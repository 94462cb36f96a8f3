"""Norms of any network: found, described, and exchanged for a norm of normbench."""

from normbench.models.exchange.convert import convert
from normbench.models.exchange.found import Found, FoundNorm, find
from normbench.models.exchange.plan import exchange, preview
from normbench.models.exchange.record import Exchange, ExchangedSite, too_few

__all__ = [
    "Exchange",
    "ExchangedSite",
    "Found",
    "FoundNorm",
    "convert",
    "exchange",
    "find",
    "preview",
    "too_few",
]
