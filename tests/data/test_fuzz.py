"""Damaged bytes of every kind of data file: refused in a line, harmless, or known as other data."""

from __future__ import annotations

SEEDS = range(12)
MORE_SEEDS = range(12, 200)
