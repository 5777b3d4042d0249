"""What the daemon tells and asks the process that learns, and what that answers.

One JSON object each. Both ends are of one installation, yet neither trusts the other's form: what
does not fit is one line at the border, not a fault somewhere behind it.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    TypeAdapter,
    ValidationError,
)

from schemas.base import describe
from schemas.rollout import ACTION, BundleOrder
from schemas.wire import ObjectRef

PREDICT: Final = "predict"
_T = TypeVar("_T")
_ADAPTERS: Final[dict[type[Any], TypeAdapter[Any]]] = {}


class MessageError(ValueError):
    """A message with a key too few or too many, or a value of another type."""


class _Message:
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Settings(_Message):
    """With what the process starts.

    Attributes
    ----------
    objects, graphs, adapters : str
        Folders.
    store_bytes : int
        Most that ``objects`` may hold.
    windows : str
        Folder of the person's windows …
    rings : bool
        … and whether a sensor writes them.
    number : int
        Of the device.
    key : str or None
        The fleet's public key.
    bundle, base : str or None
        Files of the bundle that the configuration names, where it names one.
    """

    objects: str
    graphs: str
    adapters: str
    store_bytes: StrictInt
    windows: str
    rings: StrictBool
    number: StrictInt
    key: str | None
    bundle: str | None
    base: str | None


@dataclass(frozen=True)
class Do(_Message):
    """A task: the objects of its payload, and of what is kept of its run."""

    action: str
    payload: str
    kept: str | None


@dataclass(frozen=True)
class Candidate(_Message):
    """A bundle that is to prove itself.

    Attributes
    ----------
    path, base : str
        Files.
    published, backbone
        Of the bundle that it would replace, where there is one.
    """

    path: str
    base: str | None
    published: StrictFloat | None
    backbone: str | None


@dataclass(frozen=True)
class Prove(_Message):
    """Have a bundle prove itself, by the order in an object."""

    action: ClassVar[str] = ACTION
    payload: str
    bundle: Candidate


@dataclass(frozen=True)
class Served(_Message):
    """A bundle to predict with: its name, its file and its base's."""

    sha256: str
    path: str
    base: str | None


@dataclass(frozen=True)
class Predict(_Message):
    """Predict a window's class.

    Attributes
    ----------
    model : str or None
        An object; None: a bundle's.
    window
        As a program gave it: its model says what is wrong with it. None: the newest one here.
    bundle : Served, optional
        The configuration's where it is left out.
    reference : bool
        Look at the bundle's reference input instead; the answer is ``Sound``.
    """

    action: ClassVar[str] = PREDICT
    model: str | None
    window: object
    bundle: Served | None = None
    reference: StrictBool = False


Request = Do | Prove | Predict


@dataclass(frozen=True)
class Failed(_Message):
    """It was not done; ``fault``: the bundle that was to predict is to blame."""

    error: str
    fault: StrictBool = False


@dataclass(frozen=True)
class Done(_Message):
    """A task's answer.

    Attributes
    ----------
    payload, objects : ObjectRef
        What the server is told.
    kept : str or None
        The object to keep of the run; "": nothing any more; None: as it was.
    model : str, optional
        The object to predict with from now on.
    """

    payload: ObjectRef
    objects: tuple[ObjectRef, ...]
    kept: str | None
    model: str | None = None


@dataclass(frozen=True)
class Ordered(_Message):
    """The order in an object, and an empty answer to it."""

    payload: ObjectRef
    order: BundleOrder


@dataclass(frozen=True)
class Proved(_Message):
    """A bundle proved itself: its report, its order, and what the daemon notes of it."""

    payload: ObjectRef
    order: BundleOrder
    base: str | None
    backbone: str | None
    latency_limit: StrictFloat


@dataclass(frozen=True)
class Predicted(_Message):
    """A window's class, and each one's probability.

    Attributes
    ----------
    label, name
        The class: its number, and its name where a bundle predicts.
    scores : tuple[float, ...]
    model : str, optional
        SHA-256 of what predicted: a bundle's file, or the last task's model.
    window_at : float, optional
        When the newest window came, Unix time; None: a program gave one, or it is not known.
    """

    label: Annotated[StrictInt, Field(alias="class")]
    scores: tuple[StrictFloat, ...]
    name: str | None = None
    model: str | None = None
    window_at: StrictFloat | None = None


@dataclass(frozen=True)
class Timed(Predicted):
    """A prediction of a bundle that was rolled out, and how long it took."""

    microseconds: StrictFloat = field(kw_only=True)


@dataclass(frozen=True)
class Sound(_Message):
    """A bundle answers its reference input as it should."""


Answer = Done | Ordered | Proved | Predicted | Sound
Kind = TypeVar("Kind", bound=Answer)


def write_settings(settings: Settings) -> dict[str, Any]:
    """Settings as a JSON object."""
    return _written(settings)


def read_settings(said: object) -> Settings:
    """Settings of their JSON object.

    Raises
    ------
    MessageError
        Where it is none.
    """
    return _read(Settings, said, "settings")


def write_request(request: Request) -> dict[str, Any]:
    """A request as a JSON object; ``action`` says which it is."""
    return {"action": request.action, **_written(request)}


def read_request(said: object) -> Request:
    """A request of its JSON object.

    Raises
    ------
    MessageError
        Where it is none.
    """
    action = said.get("action") if isinstance(said, dict) else None
    if not isinstance(said, dict) or action not in (Prove.action, Predict.action):
        return _read(Do, said, "request")
    fields = {key: value for key, value in said.items() if key != "action"}
    if action == Prove.action:
        return _read(Prove, fields, f"request {action!r}")
    return _read(Predict, fields, f"request {action!r}")


def write_answer(answer: Answer | Failed) -> dict[str, Any]:
    """An answer as a JSON object; what is as it mostly is, is left out."""
    return _written(answer)


def read_answer(kind: type[Kind], said: object) -> Kind | Failed:
    """An answer of the kind that was asked for, or why there is none.

    Raises
    ------
    MessageError
        Where it is neither.
    """
    if isinstance(said, dict) and "error" in said:
        return _read(Failed, said, "answer")
    return _read(kind, said, f"answer {kind.__name__}")


def _written(message: Settings | Request | Answer | Failed) -> dict[str, Any]:
    written: dict[str, Any] = _adapter(type(message)).dump_python(
        message, by_alias=True, exclude_defaults=True
    )
    return written


def _read(kind: type[_T], said: object, what: str) -> _T:
    try:
        found: _T = _adapter(kind).validate_python(said)
    except ValidationError as error:
        raise MessageError(f"{what}: {'; '.join(describe(error.errors()[:3]))}") from None
    return found


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made when first needed: a daemon that waits for tasks needs none."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
