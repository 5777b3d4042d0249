import pytest

from schemas.base import ConfigError
from schemas.text import decoded, first_line

MARK = b"\xef\xbb\xbf"


def test_a_mark_is_no_text():
    assert decoded(MARK + "né\n".encode(), "f") == "né\n"
    for data in (b"a word", b"a word\n", MARK + b"a word\r\nmore\n"):
        assert first_line(data, "f") == "a word"
    assert first_line(b"", "f") == ""


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"good\nb\xe9d\n", "f: line 2: expected UTF-8"),
        ("secret".encode("utf-16"), "f: line 1: expected UTF-8, and found UTF-16: save it anew"),
        (b"\xff\xfe\x00", "f: line 1: expected UTF-8, and found UTF-16: save it anew"),
    ],
)
def test_what_is_no_utf_8_is_said_and_not_repeated(data, says):
    with pytest.raises(ConfigError) as caught:
        decoded(data, "f")
    assert str(caught.value) == says
