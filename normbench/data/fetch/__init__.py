"""Downloads: all mirrors with a checksum (`download`), one mirror over HTTP (`mirror`)."""
