"""normbench: compare normalization layers by measuring."""

__version__ = "0.1.0"
