"""normbench: compare normalization layers by measuring.

What the commands do is here for Python, in the same words; see normbench/interface.py.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from normbench.errors import NormbenchError as NormbenchError
    from normbench.interface import Run as Run
    from normbench.interface import Runs as Runs
    from normbench.interface import certificate as certificate
    from normbench.interface import compare as compare
    from normbench.interface import load as load
    from normbench.interface import norm as norm
    from normbench.interface import report as report
    from normbench.interface import sweep as sweep
    from normbench.interface import train as train
    from normbench.models.exchange import convert as convert

__version__ = "0.2.0"
# By name, the module that has it: torch and pandas are imported at the first use.
_PLACES = {
    "NormbenchError": "normbench.errors",
    "Run": "normbench.interface",
    "Runs": "normbench.interface",
    "certificate": "normbench.interface",
    "compare": "normbench.interface",
    "convert": "normbench.models.exchange",
    "load": "normbench.interface",
    "norm": "normbench.interface",
    "report": "normbench.interface",
    "sweep": "normbench.interface",
    "train": "normbench.interface",
}
__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    """Imports what a name stands for. Raises AttributeError for any other."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'normbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
