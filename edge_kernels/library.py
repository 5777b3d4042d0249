"""The native library: where it is, what it can do, and sessions that have it."""

from __future__ import annotations

import ctypes
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import onnxruntime

from edge_kernels.given import model_of, whole
from edge_kernels.quick import QuickSession

if TYPE_CHECKING:
    from edge_kernels.given import Model

NAME = "libflwr_edge_ops.so"
_EQUIPPED = "flwr_edge.library"  # an entry of options that have the library
_MOST_BYTES = (1 << 31) - 1  # of a protobuf
_MOST_THREADS = 1024  # a session makes them at once: a million take the machine along


class Info(TypedDict):
    """What runs here.

    Attributes
    ----------
    version
        Of flwr-edge.
    onnxruntime
        Its version.
    isa
        The kernels in use; ``FLWR_EDGE_ISA`` forces others.
    features
        The CPU's features that kernels ask for.
    ops
        Operators of the domain ``flwr.edge``.
    layout_version
        Of the packed weights.
    """

    version: str
    onnxruntime: str
    isa: str
    features: list[str]
    ops: list[str]
    layout_version: int


def library_path() -> Path:
    """Return the path of the custom-op library.

    Raises
    ------
    FileNotFoundError
        If the package was installed without it.
    """
    import edge_kernels

    # An editable install keeps what was built apart from the sources: two folders, one package.
    for folder in edge_kernels.__path__:
        path = Path(folder) / NAME
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{NAME} is not in the package edge_kernels: install flwr-edge again, from a wheel or "
        "where a C++17 compiler and CMake are"
    )


def exact_int8(options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
    """Ask for exact int8 products of ONNX Runtime's own operators on every CPU; the same options.

    On x86 CPUs without VNNI it otherwise adds pairs of products (uint8 times int8) in saturating
    16 bits: a few percent of a QDQ graph's output are then wrong.
    """
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def session(
    model: Model,
    *,
    threads: int = 1,
    options: onnxruntime.SessionOptions | None = None,
) -> QuickSession:
    """Make an ONNX Runtime session on the CPU that has the operators of ``flwr.edge``.

    Its `run` is ONNX Runtime's with less ado (`QuickSession`).

    Parameters
    ----------
    model
        An ONNX model: a ModelProto, its bytes, or its path.
    threads
        Threads of one call, 1 to 1024; they are there as soon as the session is.
    options
        More settings; they are changed: the threads, the library and `exact_int8` are added. The
        same may be given again.

    Raises
    ------
    ValueError
        If there are no or too many threads, or the model is none of these or too large.
    """
    held = model_of(model)
    if not 1 <= whole("threads", threads) <= _MOST_THREADS:
        raise ValueError(f"threads is {threads}; 1 to {_MOST_THREADS} are possible")
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    _equip(options)
    if isinstance(held, Path):
        source: bytes | str = str(held)
    else:
        source = held if isinstance(held, bytes) else held.SerializeToString()
        if len(source) > _MOST_BYTES:
            raise ValueError(
                f"the model has {len(source)} bytes; ONNX Runtime takes {_MOST_BYTES} from memory: "
                "give the path of a file whose weights lie in another (external data)"
            )
    return QuickSession(source, options, providers=["CPUExecutionProvider"])


def _equip(options: onnxruntime.SessionOptions) -> None:
    """Add what sessions here need, once: ONNX Runtime refuses options that have a domain twice."""
    try:
        options.get_session_config_entry(_EQUIPPED)
    except RuntimeError:  # no such entry
        exact_int8(options).register_custom_ops_library(str(library_path()))
        options.add_session_config_entry(_EQUIPPED, "1")


@cache
def info() -> Info:
    """Say what runs here.

    Raises
    ------
    RuntimeError
        If ``FLWR_EDGE_ISA`` names kernels that cannot run here.
    """
    ask = ctypes.CDLL(str(library_path())).flwr_edge_info
    ask.restype = ctypes.c_char_p
    answer: dict[str, Any] = json.loads(ask())
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return Info(
        version=answer["version"],
        onnxruntime=onnxruntime.__version__,
        isa=answer["isa"],
        features=answer["features"],
        ops=answer["ops"],
        layout_version=answer["layout_version"],
    )
