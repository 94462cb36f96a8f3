"""Text that steers nothing: the escapes, and everything else as it was."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.text import HOSTILE, steers

from normbench.atomic import write_text
from normbench.errors import NormbenchError
from normbench.text import markdown_cell, say, visible, visible_in

ANY = st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])) | HOSTILE


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\n\tb", r"a\r\n\tb"),
        ("\0\b\x7f\x9b", r"\x00\x08\x7f\x9b"),
        ("\u202e\u2069\u2028", r"\u202e\u2069\u2028"),
        ("\ud800\udcff\uffff", r"\ud800\udcff\uffff"),
        ("Größe 正規化 😀 é\u0301 \xa0 a\\b", "Größe 正規化 😀 é\u0301 \xa0 a\\b"),
    ],
)
def test_what_is_hidden_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(ANY)
def test_visible_text_steers_nothing_and_can_be_written(text: str) -> None:
    shown = visible(text)
    assert not steers(shown)
    assert "\n" not in shown
    assert shown.encode().decode() == shown
    assert visible(shown) == shown


@given(ANY)
def test_line_breaks_are_all_that_lines_keep(text: str) -> None:
    kept = visible(text, lines=True)
    assert not steers(kept)
    assert visible(kept) == visible(text)
    assert kept.count("\n") == text.count("\n")


def test_each_character_is_escaped_or_itself() -> None:
    categories = {"Cc", "Cs", "Zl", "Zp"}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if unicodedata.category(char) in categories:
            assert visible(char).encode("ascii").decode("unicode_escape") == char
        elif visible(char) != char:
            assert unicodedata.category(char) in ("Cf", "Cn"), hex(code)


def test_texts_and_keys_at_any_depth_become_visible_and_nothing_else_changes() -> None:
    content = {"a\r": ["\x1b", {"b": "\0"}, ("\t", 1)], "c": None, "d": True, "e": 0.5}
    shown = {"a\\r": ["\\x1b", {"b": "\\x00"}, ["\\t", 1]], "c": None, "d": True, "e": 0.5}
    assert visible_in(content) == shown
    assert visible_in("a\nb\r", lines=True) == "a\nb\\r"


@given(ANY)
def test_what_is_said_is_one_visible_line(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr("builtins.print", lambda line, **_: written.append(line))
        say(text)
    assert written == [visible(text)]


@given(ANY)
def test_a_markdown_cell_holds_no_bar_that_would_end_it(text: str) -> None:
    cell = markdown_cell(text)
    # GitHub reads a backslash and the sign after it as one.
    assert "|" not in re.sub(r"\\[^\w\s]", "", cell)
    assert "\n" not in cell


@given(ANY)
def test_text_with_half_a_pair_is_written(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "text"
    write_text(file, text)
    assert file.read_bytes().decode() == re.sub(
        "[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):x}", text
    )


def test_an_error_is_one_line_that_steers_nothing(normbench: Callable[..., Any]) -> None:
    code, _, err = normbench("runs", "rm", "a\x1b[2J\u202e\ud800\rb")
    assert code == NormbenchError.exit_code
    assert not steers(err)
    assert "a\\x1b[2J\\u202e\\ud800 b" in err
