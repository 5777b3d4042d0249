"""Files in TOML, and strings as it has them."""

import tomllib

import pytest

from schemas.base import ConfigError
from schemas.toml_file import quoted, read_toml


@pytest.mark.parametrize("text", ["", "plain", 'a "b" \\ c', "\x00\t\n\x1f\x7f", "café", "🛰 Ω"])
def test_what_is_quoted_reads_back(text):
    assert tomllib.loads(f"key = {quoted(text)}") == {"key": text}


def test_a_mark_before_the_text_is_none_of_it_and_utf_16_is_said(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfrounds = 3\n")
    assert read_toml(path) == {"rounds": 3}
    path.write_text("rounds = 3\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"a\.toml: line 1: expected UTF-8, and found UTF-16"):
        read_toml(path)
