import re
from hashlib import sha256

import numpy as np
import pytest

from chopmark.datasets.book import NUM_STREAMS, RENDERED, Book, mix, render
from chopmark.datasets.exchange import Login
from chopmark.errors import DeclarationError

DAY = 86_400_000_000


@pytest.mark.parametrize("name", sorted(set(RENDERED) - {"about"}))
def test_different_codes_never_look_alike(name):
    codes = np.concatenate([np.arange(60_000), 10**8 - 1 - np.arange(60_000)])
    assert len(set(render(name, codes, salt=12345))) == len(codes)


def test_the_text_depends_on_the_salt_and_on_the_kind():
    codes = np.arange(100)
    assert not set(render("user", codes, salt=1)) & set(render("user", codes, salt=2))
    users, devices = render("user", codes, salt=1), render("device", codes, salt=1)
    assert not {text[1:] for text in users} & {text[1:] for text in devices}
    assert render("id", codes, salt=1) == render("about", codes, salt=1)


def test_neighbours_share_no_part_of_a_wallet():
    wallets = render("address", np.arange(5000), salt=4)
    assert len({part for text in wallets for part in (text[2:18], text[18:34])}) == 10_000


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("card", r"9\d{15}"),
        ("bank_account", r"9\d{11}"),
        ("ssn", r"9\d{8}"),
        ("ip", r"2001:db8:[0-9a-f]{1,4}:[0-9a-f]{1,4}::1"),
        ("address", r"0x[0-9a-f]{40}"),
    ],
)
def test_identifiers_have_their_form_and_can_belong_to_nobody(name, pattern):
    assert all(re.fullmatch(pattern, text) for text in render(name, np.arange(1000), salt=9))


def test_missing_values_become_none():
    assert render("card", np.array([-1, 3]), salt=0)[0] is None
    assert render("amount_usd", np.array([np.nan, 1.5]), salt=0) == [None, 1.5]
    assert render("asset", np.array([None, "BTC"], dtype=object), salt=0) == [None, "BTC"]


def test_mix_agrees_with_plain_integers():
    def plain(code, salt):
        mask = 2**64 - 1
        value = (code + salt) & mask
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    codes = np.arange(0, 10**6, 9973)
    salt = int.from_bytes(sha256(b"event/77").digest()[:8], "big") >> 1
    assert mix(codes, salt=77).tolist() == [plain(code, salt) for code in codes.tolist()]


def test_streams_never_name_the_same_thing():
    books = [Book(stream, "x", DAY) for stream in range(NUM_STREAMS)]
    names = [
        set(book.new("user", 50).tolist()) | set(book.new("user", 50).tolist()) for book in books
    ]
    assert len(set().union(*names)) == NUM_STREAMS * 100


def test_actions_after_the_end_are_dropped():
    book = Book(1, "x", DAY)
    users = book.new("user", 2)
    fields = {"user": users, "device": users, "ip": users, "screen_resolution": "1x1"}
    codes = book.add(Login, fields, happened_at=np.array([0, DAY]))
    assert len(codes) == 2
    assert book.batches[0].codes.tolist() == codes[:1].tolist()


def test_wrong_columns_are_refused():
    book = Book(1, "x", DAY)
    users = book.new("user", 2)
    with pytest.raises(DeclarationError, match="did you mean `device`"):
        book.add(Login, {"user": users, "devise": users}, happened_at=np.zeros(2, int))
    with pytest.raises(DeclarationError, match="has 2 values for 3 events"):
        book.add(Login, {"user": users}, happened_at=np.zeros(3, int))
