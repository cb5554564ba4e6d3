"""The page is one file that asks no network, lets no text become code, and says the figures."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle

from chopmark.datasets.tables import load_table
from chopmark.errors import ArtifactError
from chopmark.report import Costs, make_report, page, write_report
from chopmark.report.ranking import Business, Ranking
from chopmark.tabular import EasyML
from tests.report.examples import Line, Nearest

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028'\"&`$title"


class Tags(HTMLParser):
    """Every tag with its attributes, and the text inside each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "input", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def embedded(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


@pytest.fixture(scope="module")
def money_page(model, later, train):
    return page(make_report(model, later, target="target", train=train, amount="amount_usd"))


def test_tags_are_closed_and_ids_are_unique(money_page):
    found = Tags(money_page)
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"].removeprefix("#") for tag, a in found.tags if tag == "a"}
    assert links <= set(ids)
    assert {a.get("for") for tag, a in found.tags if tag == "label"} - {None} <= set(ids)


def test_nothing_is_asked_of_a_network(money_page):
    assert not re.search(r"https?:|//[a-z]|url\(|@import|src=|\bfetch\(|XMLHttp", money_page)
    assert "default-src 'none'" in money_page
    assert "unsafe" not in money_page


def test_no_style_or_handler_in_a_tag(money_page):
    for tag, attributes in Tags(money_page).tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag


def test_the_numbers_of_the_slider(money_page, model, later):
    (view,) = embedded(money_page)["views"]
    y, p = later["target"].to_numpy(), model.score(later)
    amounts = later["amount_usd"].to_numpy()
    for at in range(1, len(view["stopped"]), 37):
        stopped = p >= view["thresholds"][at] * (1 - 1e-5)
        assert view["stopped"][at] == stopped.sum()
        assert view["bad"][at] == y[stopped].sum()
        assert view["bad_volume"][at] == pytest.approx((amounts * y)[stopped].sum(), abs=0.01)
    ranking = Ranking.of(y, p, amounts)
    best = Business.of(ranking.thinned(400), Costs()).net_revenue_usd.max()
    shown = f"{best:,.0f}".replace("-", "\N{MINUS SIGN}")
    assert f'data-read="revenueAfter">{shown}<' in money_page


def test_the_figures_are_in_the_text(money_page, model, later):
    y, p = later["target"].to_numpy(), model.score(later)
    for known in (
        oracle.roc_auc_score, oracle.average_precision_score, oracle.log_loss,
        oracle.brier_score_loss,
    ):  # fmt: skip
        assert f">{known(y, p):.4f}<" in money_page
    for text in ("Net revenue", "Fraud rate", "Friction", "relative to its", "by chance"):
        assert text in money_page
    assert "<strong>score</strong>" in money_page  # its drift
    assert "payment number" in money_page  # among the columns left out
    assert str(later["payment number"][0]) not in money_page


def test_equal_inputs_give_equal_bytes(model, later, tmp_path):
    for name in ("a.html", "b.html"):
        write_report(model, later, target="target", path=tmp_path / name, title="Same")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_hostile_names_and_values_stay_text(train, later, tmp_path):
    def hostile(table):
        named = {"country": HOSTILE, "age_days": "${policy} <b>"}
        return table.with_columns(
            pl.col("country").replace({"ng": HOSTILE, "de": "<svg onload=alert(2)>"})
        ).rename(named)

    model = EasyML(model="linear").fit(hostile(train))
    text = page(
        make_report(model, hostile(later), target="target", train=hostile(train), title=HOSTILE)
    )
    found = Tags(text)
    assert found.open == []
    names = [tag for tag, _ in found.tags]
    assert names.count("script") == 2
    assert not {"img", "b", "iframe", "object"} & set(names)
    assert not [a for _, a in found.tags if any(name.startswith("on") for name in a)]
    assert "&lt;/script&gt;&lt;img" in text
    assert "\u2028" not in text.partition('id="data">')[2]
    assert embedded(text)["views"]


def test_hostile_classes_stay_text(class_table):
    class Hostile(Nearest):
        classes = ("low", HOSTILE, "high")

    table = class_table.with_columns(pl.col("target").replace({"middle": HOSTILE}))
    text = page(make_report(Hostile().fit(table, target="target"), table, target="target"))
    assert Tags(text).open == []
    assert "<img" not in text
    assert text.count('<section class="view">') == 3
    assert len(embedded(text)["views"]) == 3


def test_a_number_has_no_thresholds(line_table):
    text = page(make_report(Line().fit(line_table, target="target"), line_table, target="target"))
    assert Tags(text).open == []
    assert embedded(text) == {"views": []}
    assert "Predicted and true" in text
    assert "Where to draw the line" not in text


@pytest.mark.parametrize("rows", [1, 2, 5, 20])
def test_small_tables(rows, model, later, train):
    text = page(
        make_report(model, later.head(rows), target="target", amount="amount_usd", train=train)
    )
    assert Tags(text).open == []
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_one_class_has_no_slider(model, later):
    for label in (0, 1):
        text = page(make_report(model, later.filter(pl.col("target") == label), target="target"))
        assert embedded(text) == {"views": [None]}
        assert "nothing to tell apart" in text
        assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_scores_that_are_all_equal(model, later):
    flat = later.with_columns(
        amount_usd=pl.lit(5.0), country=pl.lit("de"), age_days=pl.lit(3), is_new=pl.lit(False)
    )
    text = page(make_report(model, flat, target="target"))
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)


def test_titanic_is_small(tmp_path):
    table = load_table("titanic")
    target = "survived" if "survived" in table.columns else "target"
    train, test = table[:600], table[600:]
    model = EasyML(model="linear").fit(train, target=target)
    write_report(model, test, target=target, path=tmp_path / "report.html", train=train)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text) < 500_000
    # Names are read as free text: the page tells their scores and names nobody.
    assert "Name" in model.reads
    assert not any(str(name).partition(",")[0] + "," in text for name in test["Name"])


def test_a_folder_that_is_not_there(model, later, tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        write_report(model, later, target="target", path=tmp_path / "none" / "report.html")


def test_many_rows_make_no_larger_page(model, later):
    many = pl.concat([later] * 12).with_columns(
        amount_usd=pl.col("amount_usd") * np.linspace(0.9, 1.1, 12 * later.height)
    )
    assert len(page(make_report(model, many, target="target"))) < 2_000_000
