"""normbench: compare normalization layers by measuring."""

__version__ = "0.2.0"
