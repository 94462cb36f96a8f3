"""Downloads: mirrors (`download`), a single mirror (`mirror`), a connection (`connection`)."""
