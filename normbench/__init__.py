"""normbench: compare normalization layers by measuring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.models.exchange import convert as convert

__version__ = "0.2.0"
__all__ = ["__version__", "convert"]


def __getattr__(name: str) -> Any:
    """Loads torch for `normbench.convert`, and for nothing else."""
    if name == "convert":
        from normbench.models.exchange import convert

        return convert
    raise AttributeError(f"module 'normbench' has no attribute '{name}'")
