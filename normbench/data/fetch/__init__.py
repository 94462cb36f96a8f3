"""Downloads: mirrors and checksums (`download`), HTTP with a single mirror (`mirror`)."""
