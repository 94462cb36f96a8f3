"""normbench norms and normbench doctor: what there is."""

from __future__ import annotations

import json


def norms() -> None:
    """List what --norm takes."""
    from normbench.norms import norms as registry

    for entry in registry:
        print(f"{entry.name:6} {entry.title:13} {entry.summary}")
        if options := registry.check(entry.name, {}):
            print(f"{'':20} options: {', '.join(f'norm.{key}={json.dumps(value)}' for key, value in options.items())}")


def doctor() -> None:
    """Show versions, device, cores, precision, and which data are there."""
    from normbench.doctor import examine

    for name, finding in examine():
        print(f"{name:22} {finding}")
