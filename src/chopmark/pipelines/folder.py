"""A data folder: all that an installation keeps, under one path.

log.sqlite       events and decisions, the only truth
vault.key        the key of the tokens for personal identifiers; back it up with the log
model.chopmark   the model in use; replace the file and restart to deploy another
state.npz        a snapshot of the feature state; may be deleted at any time
keys.json        hashes of the API keys
webhooks.json    endpoints and their secrets; webhooks/ how far each of them is, and what failed
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from chopmark.engine import SNAPSHOT_FILE, Application, Engine
from chopmark.events import SqliteLog, Vault
from chopmark.models import load_scorer

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
        try:
            engine.use(load_scorer(self.model))
        except Exception as error:  # whatever is wrong with a file must not stop the service
            logger.warning("no model in use, the default limit holds: %s", error)
        return engine
