"""Descriptions of folders: what is one is read, what is none is told, and what to do about it."""

import json

import pytest

from chopmark.errors import StoreError
from chopmark.histories.description import read_description
from chopmark.histories.storage import whole


def read(path, **options):
    return read_description(
        path, format="chopmark-cups", version=3, what="cups", make="make them with `Cups.save`",
        again="update chopmark, or wash them again",
        damaged=lambda folder, what: StoreError(f"the cups in `{folder}` are damaged: {what}"),
        **options,
    )  # fmt: skip


def test_a_description_is_given_as_it_was_written(tmp_path):
    about = {"format": "chopmark-cups", "version": 3, "cups": ["große", 2]}
    (tmp_path / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")
    assert read(tmp_path / "about.json") == about


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"expected a folder of cups at `.*`, but it has no `about\.json`; make them with"),
        (b"{", r"the cups in `.*` are damaged: `about\.json` cannot be read"),
        (b'"\xff"', r"damaged: `about\.json` cannot be read"),
        (b"[" * 10**6, r"damaged: `about\.json` cannot be read"),
        (b"[]", r"expected `about\.json` of format `chopmark-cups` in `.*`, got another"),
        (b"{}", "of format `chopmark-cups`"),
        (b'{"format": "chopmark-mugs", "version": 3}', "of format `chopmark-cups`"),
        (b'{"format": "chopmark-cups"}', "cups of version 3 in `.*`, got None; update chopmark, o"),
        (b'{"format": "chopmark-cups", "version": 4}', "got 4; update chopmark, or wash them aga"),
    ],
)
def test_what_is_no_description_of_this_kind_is_told(tmp_path, content, message):
    if content is not None:
        (tmp_path / "about.json").write_bytes(content)
    with pytest.raises(StoreError, match=message):
        read(tmp_path / "about.json")


def test_errors_name_the_folder_that_was_asked_for(tmp_path):
    with pytest.raises(StoreError, match=r"cups at `shelf`, but it has no `current\.json`"):
        read(tmp_path / "current.json", folder="shelf")


def test_a_folder_that_is_there_is_not_written_to_whatever_it_is_for(tmp_path):
    (tmp_path / "cups").mkdir()
    (tmp_path / "cups" / "one").touch()
    message = r"expected a new folder to write to, but `.*cups` is there; choose another name"
    with pytest.raises(StoreError, match=message), whole(tmp_path / "cups"):
        raise AssertionError
