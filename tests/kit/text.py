"""Hostile text: what steers a terminal, ends a cell, opens a tag, or is a formula."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
STEERING = (
    "\x1b[31m",  # a colour
    "\x1b]0;title\x07",
    "\r",
    "\b",
    "\0",
    "\x7f",
    "\x85",
    "\x9b2J",  # clears a screen, as C1 code
    "\n",
    "\t",
    "\u2028",
    "\u202e",  # right to left
    "\u2066",
    "\ud800",  # half a pair
    "\uffff",  # none of XML's characters
)
SPEAKING = (
    "$x_1$",
    "$\\frac$",
    "%",
    "&",
    ";",
    "=",
    ",",
    "|",
    "\\|",
    "`",
    "'",
    '"',
    "_",
    "-",
    "+1",
    "@",
    "#ffffff",
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "]]>",
    "-->",
    "{{ 1 }}",
    "[bold]",
    ":bug:",
    "ä",
    "正規化",
    "😀",
)
PIECES = st.sampled_from(STEERING + SPEAKING)
HOSTILE = st.lists(PIECES, min_size=1, max_size=4).map("".join)


def steers(text: str) -> set[str]:
    """The characters of a text that would steer a terminal; line breaks do not."""
    controls = {char for char in text if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
    turning = {char for char in text if unicodedata.bidirectional(char) in TURNING}
    return (controls | turning) - {"\n"}
