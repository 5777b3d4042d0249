"""Strings as TOML has them."""

import tomllib

import pytest

from schemas.toml_file import quoted


@pytest.mark.parametrize("text", ["", "plain", 'a "b" \\ c', "\x00\t\n\x1f\x7f", "café", "🛰 Ω"])
def test_what_is_quoted_reads_back(text):
    assert tomllib.loads(f"key = {quoted(text)}") == {"key": text}
