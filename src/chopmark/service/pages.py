"""The routes that take no events: what is known about a user, the declarations, the health."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException

from chopmark.decisions.decision import Decision, decision_id
from chopmark.engine import Engine
from chopmark.errors import ChopmarkError, LogUnavailable
from chopmark.events.schema import type_name
from chopmark.service.addresses import Addresses, check_address
from chopmark.service.answers import Refusal, refusal_of, unavailable
from chopmark.service.flusher import Flusher
from chopmark.service.openapi import describe

logger = logging.getLogger(__name__)

_ROUTES = ("/v1/users/", "/v1/decisions/", "/v1/addresses/")
_KNOWN = frozenset(
    {
        "/v1/schema",
        "/v1/catalog",
        "/v1/model",
        "/v1/addresses",
        "/health",
        "/ready",
        "/metrics",
        "/schema",
    }
)
_encode = msgspec.json.Encoder().encode


def create_pages(
    engine: Engine,
    flusher: Flusher,
    *,
    open_to_all: bool,
    route_handlers: Sequence[Any] = (),
    addresses: Addresses | None = None,
) -> Litestar:
    """The Litestar application of all reading routes; its life is the flusher's.

    Parameters
    ----------
    open_to_all : bool
        Whether no key is needed, which the OpenAPI document says.
    route_handlers : sequence
        Further handlers.
    addresses : Addresses, optional
        The chains that are served.
    """

    @get("/v1/users/{user:path}")
    async def read_user(request: Request[Any, Any, Any]) -> Response[bytes]:
        user = _last_part(request, "/v1/users/")
        _check(flusher)
        decision = engine.latest(user)
        await _settle(engine, flusher)
        if decision is None:
            raise Refusal(404, "not_found", "expected a user with a decision, got an unknown one")
        return _json(
            {
                "user": decision.user,
                "score": decision.score,
                "limit_usd": decision.limit_usd,
                "allowed_usd": decision.allowed_usd,
                "action": decision.action,
                "reasons": decision.reasons,
                "about": decision.about,
                "about_type": decision.about_type,
                "decided_at": decision.known_at,
                "model": decision.model,
            }
        )

    @get("/v1/decisions/{event_id:path}")
    async def read_decision(request: Request[Any, Any, Any]) -> Response[bytes]:
        event_id = _last_part(request, "/v1/decisions/")
        _check(flusher)
        body = engine.log.get_body(decision_id(event_id))
        await _settle(engine, flusher)
        if body is None:
            raise Refusal(
                404, "not_found", "expected the id of an event with a decision, got another one"
            )
        return Response(body, media_type="application/json")

    @get("/v1/addresses/{address:path}")
    async def read_address(request: Request[Any, Any, Any]) -> Response[bytes]:
        if addresses is None:
            raise no_chain()
        address = _last_part(request, "/v1/addresses/")
        check_address(address)
        (risk,) = addresses.risks([address], _asked_chain(request))
        return _json(risk)

    @get("/v1/schema")
    async def read_schema() -> Response[bytes]:
        schema = engine.schema
        types = {
            name: {field: schema.fields[field] for field in fields}
            for name, fields in schema.fields_of.items()
            if name != type_name(Decision)
        }
        return _json({"hash": schema.hash, "event_types": types})

    @get("/v1/catalog")
    async def read_catalog() -> Response[bytes]:
        catalog = engine.catalog
        features = [
            {"name": output.name, "kind": output.kind, "hash": catalog.hashes[output.name]}
            for output in catalog.outputs
        ]
        return _json({"hash": catalog.hash, "features": features})

    @get("/v1/model")
    async def read_model() -> Response[bytes]:
        scorer = engine.scorer
        if scorer is None:
            return _json({"degraded": True, "hash": None, "reads": []})
        return _json({"degraded": False, "hash": scorer.hash, "reads": scorer.reads})

    @get("/health")
    async def health() -> Response[bytes]:
        return _json({"alive": True})

    @get("/ready")
    async def ready() -> Response[bytes]:
        told = {
            "ready": flusher.alive,
            "state": flusher.state if flusher.alive or flusher.state != "ready" else "dead",
            "degraded": engine.scorer is None,
            "offset": flusher.durable_offset,
        }
        return _json(told, status=200 if flusher.alive else 503)

    @get("/metrics")
    async def metrics() -> Response[bytes]:
        model = engine.scorer.hash if engine.scorer is not None else "none"
        text = flusher.metrics.text(
            gauges={
                "ready": ("Whether events are taken.", float(flusher.alive)),
                "degraded": ("Whether decisions are made without a model.", model == "none"),
                "durable_offset": ("Last durable offset of the log.", flusher.durable_offset),
                "queue_length": ("Requests that wait for the disk.", flusher.num_waiting),
            },
            info={"model": model, "catalog": engine.catalog.hash, "policy": engine.policy.hash},
            chains={} if addresses is None else addresses.chains,
        )
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    chains = () if addresses is None else tuple(addresses.chains)
    document = _encode(describe(engine.schema, open_to_all=open_to_all, chains=chains))

    @get("/schema")
    async def read_openapi() -> Response[bytes]:
        return Response(document, media_type="application/json")

    @asynccontextmanager
    async def life(_: Litestar) -> AsyncIterator[None]:
        flusher.start()
        try:
            yield
        finally:
            await flusher.stop()
            if addresses is not None:
                addresses.close()

    return Litestar(
        [
            read_user,
            read_decision,
            read_address,
            read_schema,
            read_catalog,
            read_model,
            health,
            ready,
            metrics,
            read_openapi,
            *route_handlers,
        ],
        lifespan=[life],
        # Litestar's own page would load its browser parts from elsewhere.
        openapi_config=None,
        # Litestar's log lines would show the path, and with it the user.
        logging_config=None,
        exception_handlers={
            Refusal: _refusal,
            ChopmarkError: _own_error,
            HTTPException: _http_error,
            Exception: _failure,
        },
    )


def route_of(path: str) -> str:
    """The route of a path, for counting: never a user or an id."""
    for start in _ROUTES:
        if path.startswith(start):
            return start + "{id}"
    return path if path in _KNOWN else "other"


def no_chain() -> Refusal:
    """The refusal of a question about addresses where no chain is served."""
    return Refusal(
        404,
        "not_found",
        "expected a service that was started with a chain, got one without; start it with "
        "`--chain FOLDER`",
    )


def _asked_chain(request: Request[Any, Any, Any]) -> str | None:
    query = parse_qs(request.scope["query_string"].decode("latin-1"), keep_blank_values=True)
    named = query.pop("chain", [])
    if query or len(named) > 1:
        raise Refusal(
            400, "invalid_query", "expected at most one `chain` in the address, and nothing else"
        )
    return named[0] if named else None


def _last_part(request: Request[Any, Any, Any], start: str) -> str:
    # From the raw path: an id may hold slashes, dots and percent signs of its own.
    raw = request.scope.get("raw_path")
    if not raw:
        return request.scope["path"].removeprefix(start)
    return unquote(raw.split(b"?", 1)[0].decode("ascii").removeprefix(start))


def _check(flusher: Flusher) -> None:
    try:
        flusher.check()
    except LogUnavailable as error:
        raise unavailable(f"{error}; come again") from error


async def _settle(engine: Engine, flusher: Flusher) -> None:
    """Wait until all that may have been read is durable."""
    await flusher.durable(engine.offset)


def _json(value: object, *, status: int = 200) -> Response[bytes]:
    return Response(_encode(value), status_code=status, media_type="application/json")


def _refusal(_: Request[Any, Any, Any], refusal: Refusal) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in refusal.headers}
    return Response(
        refusal.body(),
        status_code=refusal.status,
        headers=headers,
        media_type="application/json",
    )


def _own_error(request: Request[Any, Any, Any], error: ChopmarkError) -> Response[bytes]:
    return _refusal(request, refusal_of(error))


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if error.status_code == 404:
        refusal = Refusal(404, "not_found", "expected a route of this service; /schema lists them")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("allow", "GET")
        refusal = Refusal(
            405,
            "method_not_allowed",
            f"expected {allowed}, got {request.method}",
            headers=((b"allow", allowed.encode()),),
        )
    else:
        refusal = Refusal(error.status_code, "invalid_request", "expected a request that fits")
    return _refusal(request, refusal)


def _failure(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.error("%s failed with %s", route_of(request.scope["path"]), type(error).__name__)
    return _refusal(request, refusal_of(error))
