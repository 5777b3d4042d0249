import io
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.npy import array_fields, array_values, npy_bytes, read_npy


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


TYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    hnp.byte_string_dtypes(endianness="?", max_len=3),
    hnp.datetime64_dtypes(),
)


ORDERS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "every second": lambda array: array[::2] if array.ndim else array,
}


@given(hnp.arrays(TYPES, hnp.array_shapes(min_dims=0, min_side=0)), st.sampled_from([*ORDERS]))
def test_the_same_bytes_and_the_same_array_as_numpys(array, order):
    array = ORDERS[order](array)
    data = npy_bytes(array)
    assert data == saved(array)
    read = read_npy(data)
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


def test_each_reader_gets_an_array_to_write_to():
    data = npy_bytes(np.arange(5, dtype=np.float32))
    read_npy(data)[:] = 7
    assert read_npy(data).tolist() == [0, 1, 2, 3, 4]


def test_two_shapes_of_one_header_length_are_told_apart():
    first, second = np.zeros((3, 4), np.float32), np.ones((4, 3), np.float32)
    assert read_npy(npy_bytes(first)).shape == (3, 4)
    assert read_npy(npy_bytes(second)).shape == (4, 3)


GOOD = npy_bytes(np.arange(8, dtype=np.float32))


def headed(text: str, rest: bytes = b"\0" * 32) -> bytes:
    line = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + rest


@pytest.mark.parametrize(
    "data",
    [
        *(GOOD[:n] for n in (0, 5, 9, 10, 60, len(GOOD) - 1)),
        b"?" * 200,
        b"\x93NUMPY\x01\x00" + GOOD[8:10] + b"\xff" * 200,
        headed("{'descr': '|O', 'fortran_order': False, 'shape': (4,)}"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -8)}"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (8,), 'more': 1}"),
        headed("{'descr': '<f4', 'shape': (8,)}"),
        headed("__import__('os').abort()"),
        headed(" " * 60_000),
        headed("((("),
        headed("(" * 5_000),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"),
        GOOD + b"?",
        b"\x93NUMPY\x02\x00" + GOOD[8:],
    ],
)
def test_what_is_no_array_is_refused(data):
    for _ in range(2):  # what is remembered of a header changes nothing
        with pytest.raises(ValueError, match=r"^an array"):
            read_npy(data)


def test_an_archive_is_no_array():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.npy", GOOD)
    with pytest.raises(ValueError, match="begins with"):
        read_npy(buffer.getvalue())


def test_nothing_is_allocated_for_what_is_only_announced():
    tracemalloc.start()
    with pytest.raises(ValueError, match="header announces 4000072"):
        read_npy(headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,)}"))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_objects_are_not_written():
    with pytest.raises(ValueError, match="allow_pickle"):
        npy_bytes(np.array([{}]))


def test_flowers_arrays_are_the_same_bytes():
    from flwr.app import Array

    values = np.arange(6, dtype=np.int16).reshape(2, 3)
    assert Array(*array_fields(values)) == Array(values)
    np.testing.assert_array_equal(array_values(Array(values)), values)


def test_an_array_that_is_coded_in_another_way_is_refused():
    from flwr.app import Array

    with pytest.raises(ValueError, match=r"'torch\.pickle'; expected 'numpy\.ndarray'"):
        array_values(Array("float32", (8,), "torch.pickle", GOOD))
