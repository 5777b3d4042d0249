"""The CSV of devices: what is wrong in it is said by line."""

import pytest

from schemas.base import ConfigError
from server.fleet.devices import Expected
from server.fleet.names_file import read

KEY = "0a" * 32


@pytest.fixture
def problems(tmp_path):
    def found(data):
        file = tmp_path / "names.csv"
        file.write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            read(file)
        assert caught.value.where == str(file)
        return list(caught.value.problems)

    return found


def test_what_a_spreadsheet_writes_is_read(tmp_path):
    file = tmp_path / "names.csv"
    file.write_bytes(
        b"\xef\xbb\xbfdevice,state,tags,key\r\n"
        + f'a,expected,"left  pilot",{KEY}\r\n\r\n b ,,,\r\n'.encode()
    )
    assert read(file) == [Expected("a", ("left", "pilot"), KEY), Expected("b")]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "line 1: expected the columns device, tags, key"),
        (b"name,tags\na,x\n", "line 1: 'name'; expected the columns"),
        (b"device;tags\na;x\n", "line 1: 'device;tags'; expected the columns"),
        (b"device,device\na,b\n", "line 1: the column device is there twice"),
        (b"device,tags\n", "names no device"),
        (b"device\na\nB_b\n", "line 3: name 'B_b': expected 1 to 63 of a-z"),
        (b"device,tags\na,\n ,x\n", "line 3: name '': expected"),
        (b"device,tags\r\na,A!\r\n", "line 2: tag 'A!': expected"),
        (b"device,tags\na,x,y\n", "line 2: more cells than line 1 has columns"),
        (b"device,key\na,AB\n", "line 2: key 'AB': expected 64 of 0-9 and a-f"),
        (b"device\na\n\nb\na\n", "line 5: name 'a': it is in line 2 too"),
        (b"device\na\nb\xe9\n", "line 3: expected UTF-8"),
        (b'device,tags\na,x\n"b,y\nc,z\n', "line 3: unexpected end of data"),
    ],
)
def test_each_fault_is_said_with_its_line(problems, data, said):
    (line,) = problems(data)
    assert line.startswith(said)


def test_all_faults_are_said_at_once_up_to_a_number(problems):
    assert problems(b"device,tags,key\nA,!,1\n") == [
        "line 2: name 'A': expected 1 to 63 of a-z, 0-9, -, beginning with a letter or digit",
        "line 2: tag '!': expected 1 to 63 of a-z, 0-9, -, . and _, beginning with a letter or "
        "digit",
        "line 2: key '1': expected 64 of 0-9 and a-f",
    ]
    many = problems(b"device\n" + b"X\n" * 30)
    assert len(many) == 21
    assert many[-1] == "and 39 more"  # each a bad name, and all but one there before


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigError, match=r"No such file|Is a directory"):
            read(path)
