"""The enrolment server's HTTPS side: sizes, times and rates first, then the registrar decides."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from uvicorn.protocols.http.h11_impl import H11Protocol

from schemas.base import describe
from schemas.enrolment import (
    CA_PATH,
    ENROL_PATH,
    ROTATE_PATH,
    EnrolReply,
    EnrolRequest,
    Problem,
    RotateRequest,
    Sent,
)
from server.fleet.csr import UNREADABLE
from server.fleet.enrolment import Registrar
from server.fleet.errors import STATUS, Denied
from server.fleet.limits import Limiter
from server.fleet.trouble import Trouble

S = TypeVar("S", bound=Sent)
_LINGER: Final = 1.0  # seconds after an answer, for the peer to take it
LIFE: Final = 30.0  # seconds of a connection, whatever it does
_PAGE: Final = """This is a fleet's enrollment server. On the device, run

    flwr-edge enroll 'THE WHOLE ADDRESS THAT BROUGHT YOU HERE'
"""


class ShortLived(H11Protocol):
    """A connection that is over after ``LIFE``: who sends a byte a minute keeps none open."""

    def connection_made(self, transport: Any) -> None:
        """Begin to count."""
        super().connection_made(transport)
        self._end_of_life = self.loop.call_later(LIFE, transport.abort)

    def on_response_complete(self) -> None:
        """Hear no more of a request that has its answer: the rest of it may be endless."""
        super().on_response_complete()
        self.loop.call_later(_LINGER, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count no longer."""
        self._end_of_life.cancel()
        super().connection_lost(exc)


class Border:
    """Answers requests.

    Parameters
    ----------
    registrar : Registrar
    accepted : callable(str)
        Told of each device that was accepted.
    trouble : Trouble
        Told of what was not foreseen.
    """

    def __init__(
        self, registrar: Registrar, accepted: Callable[[str], None], trouble: Trouble
    ) -> None:
        self._registrar, self._accepted, self._trouble = registrar, accepted, trouble
        self._settings = registrar.config.enrolment
        self._limiter = Limiter(self._settings.per_minute)
        # One thread: the database has one writer at a time, and a queue is fairer than its lock.
        self._thread = ThreadPoolExecutor(1, "registrar")

    def app(self) -> FastAPI:
        """Make the application."""
        app = FastAPI(title="flwr-edge enrolment", openapi_url=None, docs_url=None, redoc_url=None)
        app.get(CA_PATH)(self._ca)
        app.get("/enrol")(self._page)
        app.post(ENROL_PATH, response_model=None)(self._enrol)
        app.post(ROTATE_PATH, response_model=None)(self._rotate)
        app.exception_handler(HTTPException)(_elsewhere)
        return app

    async def _ca(self) -> Response:
        return PlainTextResponse(self._registrar.authority.chain, headers=_HEADERS)

    async def _page(self) -> Response:
        return PlainTextResponse(_PAGE, headers=_HEADERS)

    async def _enrol(self, request: Request) -> Response:
        return await self._answer(request, EnrolRequest, self._registrar.enrol)

    async def _rotate(self, request: Request) -> Response:
        return await self._answer(request, RotateRequest, self._registrar.rotate)

    async def _answer(
        self, request: Request, schema: type[S], decide: Callable[[S, str], EnrolReply]
    ) -> Response:
        address = request.client.host if request.client else "?"
        if (seconds := self._limiter.wait(address)) > 0:
            return _problem(_TOO_MANY, {"Retry-After": str(int(seconds) + 1)})
        device = "?"
        try:
            asked = _parsed(schema, await self._body(request))
            device = _claimed_name(asked)
            reply = await self._off_loop(decide, asked, address)
        except Denied as denial:
            await self._off_loop(self._note, denial, address, device)
            return _problem(denial)
        except Exception as error:  # noqa: BLE001 - the border outlives what it did not foresee
            self._limiter.refused(address)  # where a request brought it about, not for ever
            self._trouble.met(error, f"a request of {address}")
            return _problem(_BROKEN)
        if reply.state == "accepted":
            self._accepted(reply.device)
        return Response(reply.model_dump_json(), media_type=_JSON, headers=_HEADERS)

    async def _body(self, request: Request) -> bytes:
        most, body = self._settings.max_body, bytearray()
        large = Denied("too-large", f"a request has at most {most} bytes")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > most:
            raise large
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise large
        except TimeoutError:
            seconds = self._settings.body_seconds
            raise Denied("too-slow", f"the request did not come within {seconds:g} s") from None
        return bytes(body)

    def _note(self, denial: Denied, address: str, device: str) -> None:
        """Note a refusal; it stands, and is answered, also where the database cannot be written."""
        flood = self._limiter.refused(address)
        try:
            self._registrar.denied(denial, address, device)
            if flood:
                self._registrar.denied(_TOO_MANY, address, device)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the device's matter
            self._trouble.met(error, f"a refused request of {address} was not noted")

    async def _off_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


_JSON: Final = "application/json"
_HEADERS: Final = {"Connection": "close", "Cache-Control": "no-store"}
_TOO_MANY: Final = Denied("too-many", "too many refused requests; wait")
_BROKEN: Final = Denied("broken", "the server failed; its log says why. Try again later")


def _parsed(schema: type[S], body: bytes) -> S:
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        wrong = [
            {"loc": one["loc"], "type": one["type"], "msg": one["msg"], "input": "…"}
            for one in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise Denied("malformed", "; ".join(describe(wrong))[:500]) from None


def _claimed_name(asked: Any) -> str:
    """The name in a request, for the log; whatever it is, it is only that."""
    from cryptography import x509

    try:
        names = x509.load_pem_x509_csr(asked.csr.encode()).subject
        return str(next(iter(names)).value)[:63]
    except (*UNREADABLE, StopIteration):
        return "?"


def _problem(denial: Denied, headers: dict[str, str] | None = None) -> Response:
    problem = Problem(error=denial.error, detail=str(denial)[:1000])
    return JSONResponse(problem.model_dump(), denial.status, headers=_HEADERS | (headers or {}))


async def _elsewhere(_: Request, error: Exception) -> Response:
    """Another path or method: said as everything else is."""
    assert isinstance(error, HTTPException)
    known = {status: word for word, status in STATUS.items()}
    word = known.get(error.status_code, "not-found")
    problem = Problem(error=word, detail=str(error.detail))
    return JSONResponse(problem.model_dump(), error.status_code, headers=_HEADERS)
