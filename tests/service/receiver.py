"""A receiver of webhooks on this machine: a real HTTP(S) server that answers as it is told."""

import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Received:
    """One request."""

    def __init__(self, headers: dict[str, str], body: bytes, path: str, peer: int) -> None:
        self.headers, self.body, self.path, self.peer = headers, body, path, peer
        self.id = headers.get("webhook-id", "")


Reply = Callable[["Handler", Received], None]


def status(number: int, headers: dict[str, str] | None = None, body: bytes = b"ok") -> Reply:
    """A plain answer."""

    def reply(handler: "Handler", _: Received) -> None:
        handler.send_response(number)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return reply


class Handler(BaseHTTPRequestHandler):
    """Notes what comes and lets the receiver answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        receiver: Receiver = self.server.receiver
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(headers, body, self.path, self.client_address[1])
        with receiver.lock:
            receiver.received.append(received)
        receiver.reply(self, received)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        pass  # a client that hangs up is what some tests are about


class Receiver:
    """Listens at a port of ``host``; ``reply`` may be changed at any time."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, cert: Path | None = None) -> None:
        self.lock = threading.Lock()
        self.received: list[Received] = []
        self.reply: Reply = status(200)
        self.names: list[str | None] = []
        self.server = _Server((host, port), Handler)
        self.server.receiver = self
        if cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert)
            context.sni_callback = lambda _, name, __: self.names.append(name)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.url = f"http://{host}:{self.port}/hooks"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def ids(self) -> list[str]:
        """Ids in the order in which they came."""
        with self.lock:
            return [received.id for received in self.received]

    def close(self) -> None:
        """Listen no more."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def make_certificate(path: Path, name: str) -> None:
    """A self-signed certificate of a name, with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - day)
        .not_valid_after(datetime.now(UTC) + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
