"""The twin of chopmark's service: what one writes with FastAPI and pydantic.

The same engine, model, log and flusher behind another edge: pydantic reads the event and
FastAPI answers. Started by `benchmarks/http_assess.py` with the Python of .venv-peers, where
the rivals are; chopmark and what it needs come from .venv.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Behind the twin's own packages, so that these are used where both have one.
sys.path += [
    str(ROOT / "src"),
    *(str(path) for path in (ROOT / ".venv" / "lib").glob("python3*/site-packages")),
]

import http_assess  # noqa: E402
import msgspec  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI, HTTPException  # noqa: E402
from machine import parser  # noqa: E402
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field  # noqa: E402

from chopmark.errors import InvalidInput, LogUnavailable  # noqa: E402
from chopmark.service.flusher import Flusher  # noqa: E402
from chopmark.service.metrics import Metrics  # noqa: E402
from chopmark.service.server import SWITCH_INTERVAL_S  # noqa: E402


class Purchase(BaseModel):
    """The event of the benchmark."""

    model_config = ConfigDict(extra="forbid")

    type: str
    id: str = Field(min_length=1, max_length=128)
    happened_at: AwareDatetime
    user: str
    device: str
    ip: str
    card: str
    amount_usd: float = Field(ge=0, le=1e10)


class Reason(BaseModel):
    """See `chopmark.decisions.decision`."""

    code: str
    text: str
    feature: str | None = None
    value: float | str | None = None
    log_odds: float | None = None


class Decision(BaseModel):
    """See `chopmark.decisions.decision`."""

    id: str
    happened_at: datetime
    known_at: datetime
    about: str
    about_type: str
    user: str
    score: float | None
    limit_usd: float
    allowed_usd: float
    action: str
    reasons: list[Reason]
    catalog: str
    model: str | None
    policy: str
    values: list[float | str | None]
    latency_us: int


def main() -> None:
    """Serve the twin."""
    arguments = parser(__doc__)
    arguments.add_argument("--serve", type=Path, required=True)
    arguments.add_argument("--port", type=int, required=True)
    given = arguments.parse_args()
    engine = http_assess.make_engine(given.serve)
    engine.warm()
    event_type = engine.schema.types["purchase"]
    flusher = Flusher(engine, metrics=Metrics())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        flusher.start()
        yield
        await flusher.stop()

    app = FastAPI(lifespan=life)

    @app.post("/v1/assess", response_model=Decision)
    async def assess(purchase: Purchase) -> Any:
        event = msgspec.convert(purchase.model_dump(), event_type)
        try:
            assessment = engine.assess(event)
            await flusher.durable(assessment.offset)
        except InvalidInput as error:
            raise HTTPException(400, str(error)) from error
        except LogUnavailable as error:
            raise HTTPException(503, str(error)) from error
        return msgspec.to_builtins(assessment.decision, builtin_types=(datetime,))

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvicorn.run(
        app, port=given.port, loop="uvloop", http="httptools", access_log=False, log_config=None
    )


if __name__ == "__main__":
    main()
