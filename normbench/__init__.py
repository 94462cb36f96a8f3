"""normbench: compare normalization layers by measuring.

What the commands do is here for Python, in the same words; see the room interface.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.errors import NormbenchError as NormbenchError
    from normbench.interface.norms import certificate as certificate
    from normbench.interface.norms import norm as norm
    from normbench.interface.results import Run as Run
    from normbench.interface.results import Runs as Runs
    from normbench.interface.results import compare as compare
    from normbench.interface.results import load as load
    from normbench.interface.results import report as report
    from normbench.interface.training import sweep as sweep
    from normbench.interface.training import train as train
    from normbench.models.exchange import convert as convert

__version__ = "0.2.0"
# By name, the module that has it: torch and pandas are imported at the first use.
_PLACES = {
    "NormbenchError": "normbench.errors",
    "Run": "normbench.interface.results",
    "Runs": "normbench.interface.results",
    "certificate": "normbench.interface.norms",
    "compare": "normbench.interface.results",
    "convert": "normbench.models.exchange",
    "load": "normbench.interface.results",
    "norm": "normbench.interface.norms",
    "report": "normbench.interface.results",
    "sweep": "normbench.interface.training",
    "train": "normbench.interface.training",
}
__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    """Imports what a name stands for. Raises AttributeError for any other."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'normbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
