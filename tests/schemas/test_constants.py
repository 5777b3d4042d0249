import hashlib
import io

import numpy as np
import pytest

from schemas.constants import constant_bytes, is_constant, read_constant
from tests.client import handmade


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_constant_is_an_npy_file_of_its_values():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    name, data = constant_bytes(values.T)
    assert name == hashlib.sha256(data).hexdigest()
    assert data == npy(np.array([0, 3, 1, 4, 2, 5], np.float32))
    assert is_constant(data)
    np.testing.assert_array_equal(read_constant(data), values.T.ravel())


def test_a_graph_is_no_constant():
    assert not is_constant(handmade.wide())
    assert not is_constant(b"")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy(np.zeros(4)), r"float64\[4\]; expected float32 of one axis"),
        (npy(np.zeros(4, ">f4")), r"expected float32 of one axis"),
        (npy(np.zeros((2, 2), np.float32)), r"float32\[2, 2\]; expected float32 of one axis"),
        (npy(np.zeros(4, np.float32))[:-1], "an array of 143 bytes; its header announces 144"),
        (npy(np.zeros(4, np.float32)) + b"x", "an array of 145 bytes"),
        (npy(np.zeros(0, np.float32)).replace(b"(0,), ", b"(9**12,), "), "an array's header"),
        (npy(np.zeros(4, np.float32)).replace(b"(4,), ", b"(999999999999,), "), "an array"),
        (b"\x93NUMPY", "an array"),
    ],
)
def test_what_is_no_constant_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        read_constant(data)
