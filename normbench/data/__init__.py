"""Data sources, their decoded cache, and batches on the device."""
