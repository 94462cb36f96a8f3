"""Damage to files: bits, bytes, lines, kinds of file, and values of a wrong type."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from normbench.checksums import KEY, sealed

Damage = Callable[[Path, random.Random], None]

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**400, 1e308, 0.5, "", "x" * 3000, "\ud800", "\x1b[31m\x07", "=1+1"),
    *("$x_{", "a;b&c=d\ne", [], [[]], {}, {"a": {"b": [1]}}, "nan", "done", "2026-01-01"),
)
JUNK = b"\x00\xff,\n{[\x1b"


def flip_bit(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def cut(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def insert(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    place = draw.randrange(len(content) + 1)
    junk = bytes(draw.choices(JUNK, k=draw.randrange(1, 6)))
    file.write_bytes(content[:place] + junk + content[place:])


def take_out(file: Path, draw: random.Random) -> None:
    content = file.read_bytes()
    start = draw.randrange(len(content))
    file.write_bytes(content[:start] + content[start + draw.randrange(1, 9) :])


def change_digit(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if digits:
        place = draw.choice(digits)
        content[place] = ord("0") + (content[place] - ord("0") + draw.randrange(1, 10)) % 10
    file.write_bytes(content)


def repeat_line(file: Path, draw: random.Random) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    place = draw.randrange(len(lines))
    file.write_bytes(b"".join([*lines[:place], lines[place], *lines[place:]]))


def overwrite(file: Path, draw: random.Random) -> None:
    """The same file of another run or study beside it."""
    others = [path for path in sorted(file.parent.parent.glob(f"*/{file.name}")) if path != file]
    if others:
        file.write_bytes(draw.choice(others).read_bytes())


def remove(file: Path, draw: random.Random) -> None:
    file.unlink()


def empty(file: Path, draw: random.Random) -> None:
    file.write_bytes(b"")


def folder(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.mkdir()


def pipe(file: Path, draw: random.Random) -> None:
    file.unlink()
    os.mkfifo(file)


def loop(file: Path, draw: random.Random) -> None:
    file.unlink()
    file.symlink_to(file)


OF_BYTES: tuple[Damage, ...] = (flip_bit, cut, insert, take_out, change_digit, repeat_line)
OF_FILES: tuple[Damage, ...] = (overwrite, remove, empty, folder, pipe, loop)


def odd_value(file: Path, draw: random.Random) -> None:
    """A value of another type in valid YAML or JSON, under a checksum that is right."""
    is_yaml = file.suffix == ".yaml"
    content = yaml.safe_load(file.read_text()) if is_yaml else json.loads(file.read_text())
    places = list(_places(content))
    node, key = draw.choice(places)
    node[key] = draw.choice(ODD_VALUES)
    if is_yaml:
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return
    if KEY in content:
        content = sealed({name: content[name] for name in content if name != KEY})
    file.write_text(json.dumps(content))


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Each place of a value: its list or mapping, and its index or key."""
    keys: Sequence[Any] = ()
    if isinstance(node, dict):
        keys = [*node]
    elif isinstance(node, list):
        keys = range(len(node))
    found = []
    for key in keys:
        found += [(node, key), *_places(node[key])]
    return found
