import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.sources.npy import NpyError, NpyFile

TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i2"]


def saved(array, version=None):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), version=version)
    return buffer.getvalue()


def read(data):
    return NpyFile(io.BytesIO(data))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_it_reads_what_numpy_writes(dtype, version):
    array = np.arange(24).reshape(2, 4, 3).astype(dtype)
    file = read(saved(array, version))
    assert file.shape == (2, 4, 3)
    assert file.whole is (array.dtype.kind != "f")
    assert [*file.floats(12), *file.read(12)] == list(range(24))
    with pytest.raises(NpyError, match="cut short"):
        file.read(1)


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


WRONG = {
    "empty": (b"", "no .npy"),
    "text": (b"1,2,3,4,5,6\n", "no .npy"),
    "pickle": (pickle.dumps([1] * 20), "no .npy"),
    "objects": (
        header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
        "expected real or whole",
    ),
    "structure": (
        header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"),
        "expected real or whole",
    ),
    "fortran": (saved(np.zeros((3, 4), order="F")), "Fortran order"),
    "code": (header("__import__('os').system('true')"), "no header"),
    "unhashable": (header("{[]: 1}"), "no header"),
    "sets": (header("{{}}"), "no header"),
    "deep": (header("(" * 4000), "no header"),
    "keys": (header("{'descr': '<f4'}"), "no header"),
    "negative": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "the shape"),
    "huge": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (9**99,)}"), "no header"),
    "long": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "a header of"),
}


@pytest.mark.parametrize(("data", "said"), WRONG.values(), ids=WRONG)
def test_what_is_no_array_of_numbers_is_refused(data, said):
    with pytest.raises(NpyError, match=said):
        read(data)


@pytest.mark.parametrize("left", [140, 130, -1])
def test_a_file_cut_short_is_refused(left):
    with pytest.raises(NpyError, match="cut short"):
        read(saved(np.zeros((4, 3)))[:left]).read(12)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(data):
    for start in (b"", b"\x93NUMPY\x01\x00"):
        with contextlib.suppress(NpyError):
            read(start + data)
