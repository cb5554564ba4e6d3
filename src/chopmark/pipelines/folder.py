"""A data folder: all that an installation keeps, under one path.

log.sqlite       events and decisions, the only truth
vault.key        the key of the tokens for personal identifiers; back it up with the log
model.chopmark   the model in use; replace the file and restart to deploy another
state.npz        a snapshot of the feature state; may be deleted at any time
keys.json        hashes of the API keys
webhooks.json    endpoints and their secrets; webhooks/ how far each of them is, and what failed
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chopmark.engine import SNAPSHOT_FILE, Application, Engine
from chopmark.errors import StoreError
from chopmark.events import Event, EventLog, SqliteLog, Vault, type_name
from chopmark.models import load_scorer
from chopmark.rules.orders import ABOUT_RULES

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The files of an installation.

    Attributes
    ----------
    path : Path
        Made if it does not exist.
    """

    path: Path

    def __post_init__(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """Events and decisions."""
        return self.path / "log.sqlite"

    @property
    def model(self) -> Path:
        """The artifact of the model in use."""
        return self.path / "model.chopmark"

    @property
    def snapshot(self) -> Path:
        """The newest snapshot of the feature state."""
        return self.path / SNAPSHOT_FILE

    @property
    def keys(self) -> Path:
        """Hashes of the API keys."""
        return self.path / "keys.json"

    def vault(self) -> Vault:
        """The vault, with a new key if there is none."""
        return Vault.open(self.path / "vault.key")

    def open_log(self, application: Application, *, read_only: bool = False) -> SqliteLog:
        """The log."""
        return SqliteLog(self.log, application.catalog.schema, read_only=read_only)

    def open_to_read(self, application: Application) -> Engine:
        """An engine that only looks, also while another process writes to this folder's log.

        It has the log, the rules of now and the model, and takes no lock. It has no feature state
        and no writable log: it explains, recomputes and judges, and assesses nothing.

        Raises
        ------
        StoreError
            If the key of the tokens is missing: a new one would draw other numbers.
        """
        if not (self.path / "vault.key").is_file():
            raise StoreError(
                f"expected the key of the log in {self.path / 'vault.key'}, got none; restore it "
                "from where it is kept"
            )
        log = self.open_log(application, read_only=True)
        try:
            engine = Engine(application, log=log, vault=self.vault())
            for _, order in marked(log, *_RULE_ORDERS):
                if isinstance(order, ABOUT_RULES):
                    engine.book.apply(order)
            if self.model.is_file():
                self._use_model(engine)
        except BaseException:
            log.close()
            raise
        return engine

    def open_engine(self, application: Application, *, trust_known_at: bool = False) -> Engine:
        """An engine over this folder's log, with its state rebuilt and its model in use.

        A model that is missing, damaged or made for other features is not used: the engine
        then decides with the default limit, and each decision says so.
        """
        engine = Engine(
            application,
            log=self.open_log(application),
            vault=self.vault(),
            trust_known_at=trust_known_at,
        )
        engine.recover(self.snapshot)
        self._use_model(engine)
        return engine

    def _use_model(self, engine: Engine) -> None:
        try:
            engine.use(load_scorer(self.model))
        except Exception as error:  # whatever is wrong with a file must not stop the service
            logger.warning("no model in use, the default limit holds: %s", error)


_RULE_ORDERS = tuple(type_name(kind).encode() for kind in ABOUT_RULES)


def marked(log: EventLog, *marks: bytes) -> Iterator[tuple[int, Event]]:
    """Offsets and events of a log whose text has one of these marks, in the order of the log.

    Others are never decoded, so a look for few events of a large log is an order of magnitude
    quicker than reading it; whoever asks tests what comes.
    """
    for batch in log.read_bodies():
        for offset, body in batch:
            if any(mark in body for mark in marks):
                yield offset, log.schema.decode(body)
