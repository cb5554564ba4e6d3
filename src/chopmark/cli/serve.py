"""``chopmark serve``: the HTTP service over a data folder."""

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
    """
    application, _ = load_application(app)
    run_service(DataFolder(data), application, host=host, port=port, keys=keys)


def run_service(
    folder: DataFolder,
    application: Application,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    keys: bool = True,
) -> None:
    """Open a folder's engine and serve it until interrupted."""
    from chopmark.service import serve as serve_engine

    serve_engine(
        folder.open_engine(application),
        host=host,
        port=port,
        keys_path=folder.keys if keys else None,
        snapshot_path=folder.snapshot,
    )
