"""One model behind HTTP: rows in, scores and their reasons out, no log and no state.

    POST /v1/score             {"amount_usd": 12.5, ...}      -> {"score": 0.03, "log_odds": -3.5}
                               {"rows": [{...}, {...}]}       -> {"rows": [{"score": ...}, ...]}
    POST /v1/score?explain=1   the same, with the columns that moved the score most; &top=3
    GET  /v1/model             what the model reads and how, what it was judged to be worth
    GET  /healthz              alive; needs no key

A model of several classes answers with the likeliest class and a probability of each:

    POST /v1/score             {"amount_usd": 12.5, ...}      -> {"class": "low", "score": 0.7,
                                                "probabilities": {"low": 0.7, "mid": 0.2, ...}}
    POST /v1/score?explain=1   the same, with the reasons of the likeliest class; &of=mid

A model that reads a history takes it as a list of events, oldest first, as the feature gives it:

    POST /v1/score             {"history": [{"type": "login", "age": 5000000, "page": "home"}], ...}

``age`` is in whole microseconds before now. What is no event counts as one that says nothing.

A column that a row lacks is a missing value, and the answer says so (``missing``); a key that
the model does not read changes nothing, and the answer says so too (``ignored``). For events
that are to be remembered and decided about, serve an engine (`chopmark.service.app`).
Serves A11, A12 and I4 of the requirements.
"""

import asyncio
import gc
import logging
import math
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import numpy as np
import uvicorn
from numpy.typing import NDArray

from chopmark.models import ClassScorer, Value
from chopmark.models.blended import TableScorer
from chopmark.models.classes import Label
from chopmark.models.families import lists_of, load_any, readings_of
from chopmark.service.answers import Receive, Refusal, Scope, Send, answer, refusal_of
from chopmark.service.app import check_head
from chopmark.service.bodies import read_body
from chopmark.service.keys import KeyRing, open_keys
from chopmark.service.protocol import ServiceProtocol
from chopmark.service.server import (
    BACKLOG,
    GRACE_S,
    KEEP_ALIVE_S,
    _address,
    _bound,
    _ignored_afterwards,
    _print,
    _Server,
)

logger = logging.getLogger(__name__)

MAX_ROWS = 10_000
MAX_EXPLAINED_ROWS = 1_000
"""An explanation takes some hundred times as long as a score."""
LIST_COST = 16
"""A network reads a list of events in about so many times as other models score a row."""
USUAL_REASONS = 5

_PLAIN = (str, int, float, bool, type(None))
_METHODS = {"/v1/score": "POST", "/v1/model": "GET", "/healthz": "GET"}
_encode = msgspec.json.Encoder().encode


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One column's part in a score, in log-odds (or in the number's unit): above zero raises it."""

    column: str
    contribution: float


class RowScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer about one row.

    Attributes
    ----------
    score : float
        Probability of bad, or the number that the model predicts.
    log_odds : float, optional
        A probability as log-odds: `bias` plus the contributions of all columns.
    bias : float, optional
        Log-odds (or the number) of an average row, where an explanation was asked for.
    reasons : tuple of Reason
        Columns that moved the score most, strongest first.
    missing, ignored : tuple of str
        Columns that the row lacks, and keys of the row that are no column.
    """

    score: float
    log_odds: float | None = None
    bias: float | None = None
    reasons: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class ClassScore(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer about one row of a model of several classes.

    Attributes
    ----------
    likeliest : text or number
        The likeliest class, in JSON as ``class``.
    score : float
        Its probability.
    probabilities : dict of str to float
        Of each class by its text; they sum to one.
    explained : text or number, optional
        The class that the reasons are of, where an explanation was asked for.
    log_odds, bias : float, optional
        Log-odds of that class's own question, "this class or another", before the
        probabilities are made to sum to one; and those of an average row.
    reasons : tuple of Reason
        Columns that moved these log-odds most, strongest first.
    missing, ignored : tuple of str
        Columns that the row lacks, and keys of the row that are no column.
    """

    likeliest: Label = msgspec.field(name="class")
    score: float
    probabilities: dict[str, float]
    explained: Label | None = None
    log_odds: float | None = None
    bias: float | None = None
    reasons: tuple[Reason, ...] = ()
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class ScoringService:
    """The ASGI application of one model.

    Parameters
    ----------
    scorer : TableScorer or ClassScorer
        Loaded and warm.
    keys : KeyRing or None
        Keys that open all routes but ``/healthz``; None opens them to everyone.
    """

    def __init__(self, scorer: TableScorer | ClassScorer, *, keys: KeyRing | None) -> None:
        self.scorer = scorer
        # Query strings name a class by its text.
        self._classes = {
            str(label): label
            for label in (scorer.classes if isinstance(scorer, ClassScorer) else ())
        }
        self._keys = keys
        self._known = frozenset(scorer.reads)
        self._lists = lists_of(scorer)
        self._is_number = not getattr(scorer, "is_probability", True)
        self._model = _encode(describe(scorer))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        try:
            body = await self._answered(scope, receive)
        except Refusal as refusal:
            await answer(send, refusal.body(), status=refusal.status, headers=refusal.headers)
        except Exception as error:
            # Without the message: the libraries' own put values into theirs.
            logger.error("%s failed with %s", scope["path"], type(error).__name__)
            await answer(send, refusal_of(error).body(), status=500)
        else:
            if body is not None:
                await answer(send, body)

    async def _answered(self, scope: Scope, receive: Receive) -> bytes | None:
        """The answer to a request; None if the client hung up."""
        path, headers = scope["path"], scope["headers"]
        if path == "/healthz":
            _check_method(scope)
            return b'{"alive":true}'
        if self._keys is not None:
            self._keys.admit(headers)
        _check_method(scope)
        if path == "/v1/model":
            return self._model
        length = check_head(scope["method"], headers)
        options = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        top, of = _asked(options), self._class_of(options)
        body = await read_body(receive, length=length)
        return None if body is None else await self._scored(_decoded(body), top, of)

    def _class_of(self, options: Mapping[str, str]) -> Label | None:
        """The class that a query string asks for; None for the likeliest."""
        if "of" not in options:
            return None
        if options["of"] not in self._classes:
            known = ", ".join(self._classes)
            expected = (
                f"`of` as one of the classes {known}"
                if known
                else "no `of`, which is for a model of more than two classes,"
            )
            raise Refusal(400, "invalid_query", f"expected {expected} in the address")
        return self._classes[options["of"]]

    async def _scored(self, content: dict[str, Any], top: int, of: Label | None) -> bytes:
        rows = content.get("rows")
        if not isinstance(rows, list):
            return _encode(self.score(content, top=top, of=of))
        most = MAX_EXPLAINED_ROWS if top else MAX_ROWS
        if len(rows) > most:
            raise Refusal(
                422,
                "too_many_rows",
                f"expected at most {most:,} rows, got {len(rows):,}; send them in parts",
                place="$.rows",
            )
        scores = []
        # Several classes are as many scores.
        cost = max(1, len(self._classes)) * (LIST_COST if self._lists else 1)
        step = max(1, (8 if top else 256) // cost)
        for position, row in enumerate(rows):
            if position % step == min(7, step - 1):
                await asyncio.sleep(0)  # lets short requests pass a long one
            scores.append(self.score(row, top=top, of=of, place=f"$.rows[{position}]"))
        return _encode({"rows": scores})

    def score(
        self, row: object, *, top: int = 0, of: Label | None = None, place: str = "$"
    ) -> RowScore | ClassScore:
        """The answer about one row.

        Parameters
        ----------
        row : dict of str to text, number, boolean or None; a list where the column is one
        top : int
            Number of reasons; 0 asks for no explanation.
        of : text or number, optional
            Of several classes, the one to explain; None is the likeliest.
        place : str
            Path of the row in the body, for errors.

        Raises
        ------
        Refusal
            422 if it is no such dict.
        """
        if not isinstance(row, dict):
            raise _no_row(f"an object with the columns of one row, got {_kind(row)}", place)
        reads, known = self.scorer.reads, self._known
        values = [row.get(name) for name in reads]
        for name, value in zip(reads, values, strict=True):
            if isinstance(value, _PLAIN) or (isinstance(value, list) and name in self._lists):
                continue
            expected = (
                "a list of events" if name in self._lists else "text, a number, true, false or null"
            )
            raise _no_row(f"{expected}, got {_kind(value)}", f"{place}.{name}")
        missing = tuple(name for name in reads if name not in row)
        ignored = tuple(name for name in row if name not in known)
        if isinstance(self.scorer, ClassScorer):
            return _class_score(self.scorer, values, top, of, missing=missing, ignored=ignored)
        bias: float | None = None
        reasons: tuple[Reason, ...] = ()
        if top:
            score, moves = self.scorer.explain_row(values)
            bias, reasons = self.scorer.bias, _strongest(reads, moves, top)
        else:
            score = self.scorer.score_row(values)
        return RowScore(
            score=score,
            log_odds=None if self._is_number else _log_odds(score),
            bias=bias,
            reasons=reasons,
            missing=missing,
            ignored=ignored,
        )


def describe(scorer: TableScorer | ClassScorer) -> dict[str, Any]:
    """What a model is, as JSON takes it: columns and their kinds, what it was judged to be."""
    training = scorer.training
    kinds, dropped = readings_of(scorer)
    return {
        "hash": scorer.hash,
        "task": training.get("task", "binary"),
        "classes": training.get("classes", []),
        "reads": scorer.reads,
        "kinds": {**kinds, **dict.fromkeys(sorted(lists_of(scorer)), "sequence")},
        "dropped": {column.name: column.reason for column in dropped},
        "num_rows": training.get("num_rows"),
        "metrics": training.get("held_out", {}),
        "importance": training.get("importance", {}),
    }


def serve_model(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    keys_path: Path | None = None,
    announce: Callable[[str], None] = _print,
) -> None:
    """Serve one model file over HTTP until SIGTERM or SIGINT.

    Parameters
    ----------
    path : path
        The artifact.
    port : int
        0 takes a free one; the announcement says which.
    keys_path : path or None
        File of the API keys; where it holds none, one is made and shown. None asks for no keys.
    announce : function of str
        Gets the lines for the operator.

    Raises
    ------
    ArtifactError
        If the file is no model.
    ServiceError
        If the port is taken, or the address is not of this machine.
    """
    with _bound(host, port) as listener:
        scorer = load_any(path)
        keys, first = (None, None) if keys_path is None else open_keys(keys_path)
        if first is not None:
            announce(f"API key, shown this once: {first}")
        config = uvicorn.Config(
            ScoringService(scorer, keys=keys),  # type: ignore[arg-type]
            http=ServiceProtocol,
            loop="uvloop" if sys.platform != "win32" else "asyncio",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        address = _address(listener)
        gc.collect()
        gc.freeze()
        restore = _ignored_afterwards(signal.SIGTERM, signal.SIGINT)
        try:
            _Server(config, lambda: announce(f"chopmark serves on {address}")).run([listener])
        finally:
            restore()
            gc.unfreeze()


async def _live(receive: Receive, send: Send) -> None:
    """The life of the application: nothing to begin, nothing to end."""
    for _ in range(2):
        event = await receive()
        await send({"type": f"{event['type']}.complete"})


def _check_method(scope: Scope) -> None:
    allowed = _METHODS.get(scope["path"])
    if allowed is None:
        known = ", ".join(f"{method} {path}" for path, method in _METHODS.items())
        raise Refusal(404, "not_found", f"expected a route of this service: {known}")
    if scope["method"] != allowed:
        raise Refusal(
            405,
            "method_not_allowed",
            f"expected {allowed}, got {scope['method']}",
            headers=((b"allow", allowed.encode()),),
        )


def _asked(options: Mapping[str, str]) -> int:
    """How many reasons a query string asks for: 0 without ``explain=1``."""
    explain, top = options.get("explain", "0"), options.get("top", str(USUAL_REASONS))
    if explain not in ("0", "1", "false", "true"):
        raise Refusal(400, "invalid_query", "expected `explain=1` or `explain=0` in the address")
    if not (top.isascii() and top.isdigit() and 0 < int(top[:9]) < 10_000):
        raise Refusal(400, "invalid_query", "expected `top` as a number from 1 on in the address")
    return int(top[:9]) if explain in ("1", "true") else 0


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        came = str(error) if isinstance(error, msgspec.DecodeError) else "no UTF-8"
        raise Refusal(400, "invalid_json", f"expected JSON, got: {came}", place="$") from error
    if not isinstance(content, dict):
        raise _no_row(f'an object of columns, or {{"rows": [...]}}, got {_kind(content)}', "$")
    return content


def _no_row(expected: str, place: str) -> Refusal:
    return Refusal(422, "invalid_row", f"expected {expected}", place=place)


def _kind(value: object) -> str:
    """What JSON calls a value; never the value itself."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    return "text" if isinstance(value, str) else "a number"


def _class_score(
    scorer: ClassScorer,
    values: Sequence[Value],
    top: int,
    of: Label | None,
    *,
    missing: tuple[str, ...],
    ignored: tuple[str, ...],
) -> ClassScore:
    chances = scorer.score_row(values).tolist()
    score = max(chances)
    likeliest = scorer.classes[chances.index(score)]
    probabilities = dict(zip(map(str, scorer.classes), chances, strict=True))
    if not top:
        return ClassScore(
            likeliest=likeliest,
            score=score,
            probabilities=probabilities,
            missing=missing,
            ignored=ignored,
        )
    explained = likeliest if of is None else of
    found = scorer.explain_row(values, of=explained)
    return ClassScore(
        likeliest=likeliest,
        score=score,
        probabilities=probabilities,
        explained=explained,
        log_odds=float(found.log_odds()[0]),
        bias=found.bias,
        reasons=_strongest(found.reads, found.values[0], top),
        missing=missing,
        ignored=ignored,
    )


def _strongest(reads: Sequence[str], moves: NDArray[np.float64], top: int) -> tuple[Reason, ...]:
    order = np.argsort(-np.abs(moves), kind="stable")[:top]
    return tuple(Reason(column=reads[j], contribution=float(moves[j])) for j in order)


def _log_odds(score: float) -> float:
    return math.log(score) - math.log1p(-score)
