"""The data sources behind `--data`: importing this package registers them all."""

from normbench.data.formats import cifar10, cifar10_parquet, image_folder, synthetic  # noqa: F401
from normbench.data.source import DataHome, Dataset, Source, Split, sources

__all__ = ["DataHome", "Dataset", "Source", "Split", "sources"]
