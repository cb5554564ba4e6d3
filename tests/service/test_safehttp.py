"""A connection that cannot be led astray: hostile URLs, hostile resolvers, hostile servers."""

import contextlib
import socket
import ssl
import threading
import time

import pytest

from chopmark.errors import InvalidInput
from chopmark.service.safehttp import (
    MAX_ANSWER_BYTES,
    Astray,
    Connection,
    NoAnswer,
    Reach,
    parse_url,
    resolve,
)
from tests.service.receiver import Receiver, make_certificate, status

NEAR = Reach(allow_private=True, insecure_http=True)

HOSTILE_URLS = [
    "",
    "hooks.example",
    "//hooks.example/",
    "https:",
    "https:/hooks.example/",
    "https:hooks.example",
    "https://",
    "https:///hooks",
    "https://:443/",
    "http://hooks.example/",
    "HTTP://hooks.example/",
    "ftp://hooks.example/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_SET",
    "javascript://hooks.example/%0aalert(1)",
    "unix:///var/run/docker.sock",
    "https://user@hooks.example/",
    "https://user:word@hooks.example/",
    "https://@hooks.example/",
    "https://hooks.example@127.0.0.1/",
    "https://127.0.0.1\\@hooks.example/",
    "https://hooks.example\\@127.0.0.1/",
    "https://hooks.example#@127.0.0.1/",
    "https://hooks.example/#fragment",
    "https://hooks.example:80/",
    "https://hooks.example:22/",
    "https://hooks.example:6379/",
    "https://hooks.example:0/",
    "https://hooks.example:/",
    "https://hooks.example:0443/",
    "https://hooks.example:443443/",
    "https://hooks.example:-1/",
    "https://hooks.example:443:443/",
    "https://hooks.example:4 43/",
    "https://hooks.example /",
    " https://hooks.example/",
    "https://hooks.exam\tple/",
    "https://hooks.example/\r\nHost: 127.0.0.1",
    "https://hooks.example/\x00",
    "https://hooks.example/\x7f",
    "https://hooks.ex\u00e4mple/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://hooks\u3002example/",
    "https://hooks.example./",
    "https://.hooks.example/",
    "https://hooks..example/",
    "https://-hooks.example/",
    "https://%31%32%37.0.0.1/",
    "https://*.example/",
    "https://hooks.example,127.0.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://127.1/",
    "https://0177.0.0.1/",
    "https://127.0.0.1/",
    "https://127.0.0.1.:443/",
    "https://169.254.169.254/latest/meta-data/",
    "https://0.0.0.0/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[fe80::1%25eth0]/",
    "https://[fd00:ec2::254]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[2002:7f00:1::]/",
    "https://[127.0.0.1]/",
    "https://[v1.a]/",
    "https://hooks[2606:4700::1]/",
    "https://[2606:4700::1]hooks/",
    "https://2606:4700::1/",
    "https://" + "a" * 64 + ".example/",
    "https://" + "a." * 130 + "example/",
    "https://hooks.example/" + "a" * 2_000,
]

INNER_ADDRESSES = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::ffff:0:7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::ffff:a00:1",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%lo",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "nonsense",
    "",
]


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    path = tmp_path_factory.mktemp("tls") / "hooks.pem"
    make_certificate(path, "hooks.test")
    return path


def at(*answers):
    """A resolver that gives these answers one after another, then the last for ever."""
    asked = []

    def look_up(host, port):
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    look_up.asked = asked
    return look_up


@pytest.mark.parametrize("url", HOSTILE_URLS)
def test_a_hostile_url_is_refused_before_anything_is_resolved(url):
    with pytest.raises(Astray):
        parse_url(url, Reach())


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "path"),
    [
        ("https://hooks.example", "hooks.example", 443, "hooks.example", "/"),
        ("HTTPS://Hooks.Example/a?b=c", "hooks.example", 443, "hooks.example", "/a?b=c"),
        ("https://hooks.example:8443/a", "hooks.example", 8443, "hooks.example:8443", "/a"),
        ("https://hooks.example/a//b@c", "hooks.example", 443, "hooks.example", "/a//b@c"),
        ("https://8.8.8.8/", "8.8.8.8", 443, "8.8.8.8", "/"),
        ("https://[2606:4700::1]/", "2606:4700::1", 443, "[2606:4700::1]", "/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, None, "/"),
        ("https://a_b.example?x", "a_b.example", 443, "a_b.example", "/?x"),
    ],
)
def test_an_honest_url_is_read(url, host, port, authority, path):
    target = parse_url(url, Reach())
    assert (target.host, target.port, target.path, target.tls) == (host, port, path, True)
    assert target.authority == (authority or host)


@pytest.mark.parametrize("address", INNER_ADDRESSES)
def test_a_name_with_one_inner_address_is_refused(address):
    for addresses in ([address], ["93.184.215.14", address], [address, "2606:4700::1111"]):
        with pytest.raises(Astray):
            Connection("https://hooks.test/", resolver=at(addresses)).post({}, b"")


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_in_reach(address):
    Reach().check_address(address)


def test_private_addresses_are_in_reach_where_allowed_and_metadata_never():
    near = Reach(allow_private=True)
    for address in ("127.0.0.1", "10.1.2.3", "192.168.0.9", "::1", "fd12::1", "8.8.8.8"):
        near.check_address(address)
    for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16",
                    "0.0.0.0", "::", "fe80::1", "224.0.0.1", "::ffff:127.0.0.1"):  # fmt: skip
        with pytest.raises(Astray):
            near.check_address(address)


def test_plain_http_stays_on_this_machine():
    for reach in (Reach(), Reach(allow_private=True), Reach(insecure_http=True)):
        with pytest.raises(Astray):
            parse_url("http://127.0.0.1:9000/", reach)
    assert parse_url("http://127.0.0.1:9000/", NEAR).port == 9000
    with pytest.raises(Astray):
        parse_url("http://10.0.0.1/", NEAR)
    for address in ("10.0.0.1", "8.8.8.8"):
        with pytest.raises(Astray):
            Connection("http://hooks.test/", reach=NEAR, resolver=at([address])).post({}, b"")


def test_the_systems_own_resolver_does_not_lead_inside():
    assert set(resolve("localhost", 443)) <= {"127.0.0.1", "::1"}
    with pytest.raises(Astray):
        Connection("https://localhost/").post({}, b"")


def test_a_post_arrives_and_the_connection_is_kept(receiver):
    connection = Connection(receiver.url + "?a=b", reach=NEAR)
    for number in range(3):
        assert connection.post({"x-number": str(number)}, b"body").status == 200
    connection.close()
    first = receiver.received[0]
    assert (first.path, first.body) == ("/hooks?a=b", b"body")
    assert first.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert len({received.peer for received in receiver.received}) == 1


def test_the_address_that_was_checked_is_the_one_that_is_used(receiver):
    # The name means the receiver when it is checked, and a neighbour ever after.
    trap = Receiver("127.0.0.2", receiver.port)
    try:
        look_up = at(["127.0.0.1"], ["127.0.0.2"])
        connection = Connection(
            f"http://rebind.test:{receiver.port}/", reach=NEAR, resolver=look_up
        )
        for _ in range(3):
            assert connection.post({}, b"").status == 200
        connection.close()
        assert look_up.asked == ["rebind.test"]
        assert len(receiver.received) == 3
        assert receiver.received[0].headers["host"] == f"rebind.test:{receiver.port}"
        assert trap.received == []
    finally:
        trap.close()


def test_every_new_connection_is_judged_anew(receiver):
    look_up = at(["127.0.0.1"], ["10.0.0.1"])
    connection = Connection(f"http://rebind.test:{receiver.port}/", reach=NEAR, resolver=look_up)
    assert connection.post({}, b"").status == 200
    connection.close()
    with pytest.raises(Astray):
        connection.post({}, b"")
    assert len(receiver.received) == 1


def test_an_address_that_does_not_listen_is_followed_by_the_next(receiver):
    look_up = at(["127.0.0.9", "127.0.0.1"])
    connection = Connection(f"http://hooks.test:{receiver.port}/", reach=NEAR, resolver=look_up)
    assert connection.post({}, b"").status == 200
    connection.close()


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(receiver, number):
    trap = Receiver()
    try:
        receiver.reply = status(number, {"Location": trap.url})
        connection = Connection(receiver.url, reach=NEAR)
        assert connection.post({}, b"").status == number
        connection.close()
        assert trap.received == []
    finally:
        trap.close()


def test_proxies_of_the_environment_are_not_asked(receiver, monkeypatch):
    trap = Receiver()
    try:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url)
        connection = Connection(receiver.url, reach=NEAR)
        assert connection.post({}, b"").status == 200
        connection.close()
        assert trap.received == []
    finally:
        trap.close()


def test_https_checks_the_certificate_against_the_name(certificate):
    receiver = Receiver(cert=certificate)
    try:
        reach = Reach(allow_private=True, ports=frozenset({receiver.port}))
        trusting = ssl.create_default_context(cafile=str(certificate))

        def posted(name, context):
            connection = Connection(
                f"https://{name}:{receiver.port}/", reach=reach, context=context,
                resolver=at(["127.0.0.1"]),
            )  # fmt: skip
            try:
                return [connection.post({}, b"x").status for _ in range(2)]
            finally:
                connection.close()

        assert posted("hooks.test", trusting) == [200, 200]
        assert receiver.names == ["hooks.test"]
        with pytest.raises(NoAnswer, match="Hostname mismatch"):
            posted("other.test", trusting)
        with pytest.raises(NoAnswer, match="self-signed certificate"):
            posted("hooks.test", None)
        assert len(receiver.received) == 2
    finally:
        receiver.close()


def serving(answer):
    """A bare server of one connection at a time: ``answer(socket)`` does as it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                answer(peer)

    thread = threading.Thread(target=work)
    thread.start()

    def end():
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()

    return f"http://127.0.0.1:{listener.getsockname()[1]}/", end


def drip(head, every_s=0.02):
    def answer(peer):
        peer.recv(65536)
        peer.sendall(head)
        while True:
            peer.sendall(b"a")
            time.sleep(every_s)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        lambda peer: time.sleep(1.5),
        drip(b""),
        drip(b"HTTP/1.1 200 OK\r\nX: "),
        drip(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\nX: "),
    ],
    ids=["silent", "status", "headers", "continue"],
)
def test_however_slowly_it_drips_the_deadline_ends_it(answer):
    url, end = serving(answer)
    try:
        started = time.monotonic()
        with pytest.raises(NoAnswer):
            Connection(url, reach=NEAR, timeout_s=0.4).post({}, b"")
        assert 0.3 < time.monotonic() - started < 1.3
    finally:
        end()


def test_a_body_that_never_ends_changes_nothing_of_the_answer():
    heads = (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    )
    for head in heads:
        url, end = serving(drip(head))
        try:
            assert Connection(url, reach=NEAR, timeout_s=0.3).post({}, b"").status == 200
        finally:
            end()


def test_no_more_than_64_kib_of_an_answer_is_read():
    taken = []

    def answer(peer):
        peer.recv(65536)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
        taken.append(0)
        while True:
            taken[-1] += peer.send(b"a" * 4096)

    url, end = serving(answer)
    try:
        started = time.monotonic()
        assert Connection(url, reach=NEAR, timeout_s=5).post({}, b"").status == 200
        assert time.monotonic() - started < 2
    finally:
        end()
    # What the kernel's buffers took is beyond it; a reader would have taken gigabytes in 2 s.
    assert MAX_ANSWER_BYTES <= taken[0] < 16 << 20


@pytest.mark.parametrize(
    "text",
    [b"", b"\0\0\0\0\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 abc OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"HTTP/1.1 " + b"2" * 99_999],
)  # fmt: skip
def test_what_is_no_http_is_no_answer(text):
    def answer(peer):
        peer.recv(65536)
        peer.sendall(text)

    url, end = serving(answer)
    try:
        with pytest.raises(NoAnswer):
            Connection(url, reach=NEAR, timeout_s=2).post({}, b"")
    finally:
        end()


def test_a_kept_connection_that_was_closed_is_made_anew():
    def answer(peer):
        peer.recv(65536)
        peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    url, end = serving(answer)
    try:
        connection = Connection(url, reach=NEAR)
        assert [connection.post({}, b"").status for _ in range(3)] == [204] * 3
        connection.close()
    finally:
        end()


def test_a_resolver_that_hangs_is_left_behind():
    waiting = threading.Event()

    def hang(host, port):
        waiting.wait(5)
        return ["127.0.0.1"]

    started = time.monotonic()
    with pytest.raises(NoAnswer, match="not resolved in time"):
        Connection("https://hooks.test/", resolver=hang, timeout_s=0.2).post({}, b"")
    assert time.monotonic() - started < 1
    waiting.set()


def test_a_name_that_does_not_exist_is_no_answer():
    def unknown(host, port):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolver in (unknown, at([])):
        with pytest.raises(NoAnswer):
            Connection("https://hooks.test/", resolver=resolver).post({}, b"")


def test_a_header_cannot_carry_another(receiver):
    connection = Connection(receiver.url, reach=NEAR)
    for value in ("a\r\nx: y", "a\n", "\u00e4", "\x00"):
        with pytest.raises(InvalidInput, match="printable ASCII"):
            connection.post({"webhook-id": value}, b"")
    assert receiver.received == []
