"""``chopmark serve``: the HTTP service over a data folder."""

from collections.abc import Sequence
from pathlib import Path

from chopmark.cli.application import load_application
from chopmark.engine import Application
from chopmark.pipelines.folder import DataFolder


def serve(
    data: Path,
    *,
    app: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    keys: bool = True,
    chain: tuple[str, ...] = (),
) -> None:
    """Serve assessments over HTTP until interrupted.

    Parameters
    ----------
    data
        Folder with the log, the model and the keys; made if it does not exist.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    host
        Address to listen at.
    port
        Port to listen at.
    keys
        Whether requests need an API key; one is made and shown at the first start.
    chain
        Folder of a learned chain, or `NAME=FOLDER`; again for another one. Decisions about events
        with an address then see its score and label, and `/v1/addresses` answers.
    """
    application, _ = load_application(app)
    run_service(DataFolder(data), application, host=host, port=port, keys=keys, chains=chain)


def run_service(
    folder: DataFolder,
    application: Application,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    keys: bool = True,
    chains: Sequence[str] = (),
) -> None:
    """Open a folder's engine and serve it until interrupted."""
    from chopmark.service import serve as serve_engine
    from chopmark.service.addresses import Addresses

    # Before the log is opened, which may take long: what is wrong is said at once.
    addresses = Addresses.open(chains) if chains else None
    if addresses is not None:
        addresses.check(application.catalog.schema)
    serve_engine(
        folder.open_engine(application),
        host=host,
        port=port,
        keys_path=folder.keys if keys else None,
        snapshot_path=folder.snapshot,
        addresses=addresses,
    )
