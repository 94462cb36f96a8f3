"""The data sources, a file each; importing a file registers its source."""
