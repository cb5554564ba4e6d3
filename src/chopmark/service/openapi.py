"""The OpenAPI document, made from the event types themselves."""

from collections.abc import Sequence
from typing import Any

import msgspec

from chopmark.decisions.decision import Decision
from chopmark.events.event import Event
from chopmark.events.schema import MAX_TEXT, Schema, type_name
from chopmark.graph.scored import AddressRisk, AddressScored
from chopmark.service.addresses import MAX_ADDRESSES
from chopmark.service.bodies import MAX_BATCH, MAX_BODY_BYTES

_BATCH = (
    "The events are validated as a whole, before any is taken. Each is then taken exactly once, "
    "in order, as a group of its own: after a 503 some may have been. Repeat the whole batch."
)
_REF = "#/components/schemas/"
_ERRORS = {
    "400": "No JSON, or no valid event; `place` says where.",
    "401": "No key of this service.",
    "404": "Unknown.",
    "408": "The body came too slowly.",
    "409": "The id is taken: by an event with another content, or by one that was taken in "
    "without a decision.",
    "413": f"More than {MAX_BODY_BYTES} bytes.",
    "415": "Another content type than application/json.",
    "503": "Nothing was acknowledged; repeat the whole request after the seconds in "
    "`Retry-After`: what was taken already is not taken again.",
}


def describe(schema: Schema, *, open_to_all: bool, chains: Sequence[str] = ()) -> dict[str, Any]:
    """The document, as JSON values.

    Parameters
    ----------
    schema : Schema
        Whose event types are the bodies.
    open_to_all : bool
        Whether no key is needed.
    chains : sequence of str
        Names of the chains that are served.
    """
    made_here = (Decision, AddressScored) if chains else (Decision,)
    event_types = [kind for kind in schema.types.values() if kind not in made_here]
    _, components = msgspec.json.schema_components(
        [*event_types, Decision], ref_template=_REF + "{name}"
    )
    for kind in event_types:
        # The log says when an event was known; only history may say so itself.
        components[kind.__name__]["properties"].pop("known_at", None)
    components |= {
        "Event": _union(event_types),
        # A decision is about somebody.
        "Decidable": _union([kind for kind in event_types if "user" in kind.__struct_fields__]),
        "Error": _object(
            error=_object(
                ("place",),
                code={"type": "string"},
                message={"type": "string"},
                place={"type": "string"},
            )
        ),
        "Taken": _object(taken={"type": "integer"}, repeated={"type": "integer"}),
    }
    event = {"$ref": _REF + "Event"}
    events = {"type": "array", "items": event, "maxItems": MAX_BATCH}
    decidable = {"$ref": _REF + "Decidable"}
    decision = {"$ref": _REF + "Decision"}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "chopmark",
            "version": "1",
            "description": "Events in, decisions out: durable before the answer, and "
            "idempotent by event id.",
        },
        "paths": {
            "/v1/assess": _post("Decide about an event.", decidable, decision, replays=True),
            "/v1/assess/batch": _post(
                "Decide about events.",
                {"type": "array", "items": decidable, "maxItems": MAX_BATCH},
                {"type": "array", "items": decision},
                description=_BATCH,
                replays=True,
            ),
            "/v1/events": _post(
                "Take in events without a decision.",
                {"oneOf": [event, events]},
                {"$ref": _REF + "Taken"},
                description=_BATCH,
            ),
            "/v1/users/{user}": _get("Newest score, limit and reasons.", parameter="user"),
            "/v1/decisions/{event_id}": _get(
                "The decision about an event.", decision, parameter="event_id"
            ),
            "/v1/schema": _get("Event types and their fields."),
            "/v1/catalog": _get("Features and their hashes."),
            "/v1/model": _get("The model in use."),
            "/schema": _get("This document."),
            "/metrics": _get("Counts and latencies.", content_type="text/plain"),
            "/health": _get("Whether the process is alive.", needs_key=False),
            "/ready": _get("Whether events are taken.", needs_key=False, may_be_unready=True),
        },
        "components": {"schemas": components},
    }
    if chains:
        document["paths"] |= _of_addresses(chains)
        _, more = msgspec.json.schema_components([AddressRisk], ref_template=_REF + "{name}")
        components |= more
    if not open_to_all:
        scheme = {"type": "http", "scheme": "bearer"}
        document["components"]["securitySchemes"] = {"key": scheme}
        document["security"] = [{"key": []}]
    return document


def _of_addresses(chains: Sequence[str]) -> dict[str, Any]:
    """The routes of a service that serves chains."""
    risk = {"$ref": _REF + "AddressRisk"}
    address = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
    chain = {"type": "string", "enum": list(chains)}
    one = _get("The risk of an address, of the first chain that knows it.", risk,
               parameter="address")  # fmt: skip
    many = _post(
        "The risks of many addresses.",
        {
            "type": "object",
            "properties": {
                "addresses": {"type": "array", "items": address, "maxItems": MAX_ADDRESSES},
                "chain": {"anyOf": [chain, {"type": "null"}]},
            },
            "required": ["addresses"],
            "additionalProperties": False,
        },
        _object(risks={"type": "array", "items": risk}),
    )
    one["get"]["parameters"][0]["schema"] = address
    one["get"]["parameters"].append({"name": "chain", "in": "query", "schema": chain})
    one["get"]["responses"]["400"] = _error("400")
    many["post"]["responses"]["200"]["description"] = "Found."
    many["post"]["responses"]["404"] = _error("404")
    del many["post"]["responses"]["409"]
    return {"/v1/addresses/{address}": one, "/v1/addresses": many}


def _union(event_types: list[type[Event]]) -> dict[str, Any]:
    refs = {type_name(kind): _REF + kind.__name__ for kind in event_types}
    return {
        "oneOf": [{"$ref": ref} for ref in refs.values()],
        "discriminator": {"propertyName": "type", "mapping": refs},
    }


def _post(
    summary: str,
    body: dict[str, Any],
    result: dict[str, Any],
    *,
    description: str | None = None,
    replays: bool = False,
) -> dict[str, Any]:
    codes = ["400", "401", "408", "409", "413", "415", "503"]
    replay = {
        "description": "`true` if this is the recorded answer to an earlier request.",
        "schema": {"enum": ["true"]},
    }
    good = {"description": "Durable.", "content": {"application/json": {"schema": result}}}
    if replays:
        good["headers"] = {"Idempotent-Replay": replay}
    operation = {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": good, **{code: _error(code) for code in codes}},
    }
    if description is not None:
        operation["description"] = description
    return {"post": operation}


def _get(
    summary: str,
    result: dict[str, Any] | None = None,
    *,
    parameter: str | None = None,
    content_type: str = "application/json",
    needs_key: bool = True,
    may_be_unready: bool = False,
) -> dict[str, Any]:
    schema = result or {"type": "string" if content_type == "text/plain" else "object"}
    good = {"description": "Found.", "content": {content_type: {"schema": schema}}}
    operation: dict[str, Any] = {"summary": summary, "responses": {"200": good}}
    codes = ["401"] if needs_key else []
    if parameter is not None:
        operation["parameters"] = [
            {
                "name": parameter,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }
        ]
        codes += ["404", "503"]
    operation["responses"] |= {code: _error(code) for code in codes}
    if may_be_unready:
        operation["responses"]["503"] = {**good, "description": "Not now."}
    if not needs_key:
        operation["security"] = []
    return {"get": operation}


def _error(code: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": _ERRORS[code],
        "content": {"application/json": {"schema": {"$ref": _REF + "Error"}}},
    }
    if code == "503":
        told["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return told


def _object(optional: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }
