"""normbench doctor: what there is on this machine."""

from __future__ import annotations


def doctor() -> None:
    """Show versions, device, cores, precision, and which data are there."""
    from normbench.doctor import examine

    for name, finding in examine():
        print(f"{name:22} {finding}")
