import re
from math import inf, isnan

import numpy as np
import polars as pl
import pytest

from chopmark.errors import InvalidTable
from chopmark.report import campaign as module
from chopmark.report.bands import Estimate
from chopmark.report.campaign import make_campaign, ratio, write_campaign


def sent(*days):
    """Messages of days, each (day, targeted, engaged, random, engaged)."""
    rows = []
    for day, targeted, hits, random, lucky in days:
        rows += [(day, "target", int(place < hits)) for place in range(targeted)]
        rows += [(day, "explore", int(place < lucky)) for place in range(random)]
    return pl.DataFrame(
        rows, schema={"day": pl.Int64, "why": pl.String, "engaged": pl.Int8}, orient="row"
    )


def test_the_lift_compares_the_groups_of_the_same_days():
    # Day 0 is all random and would spoil the comparison, day 1 is slow, day 2 is lively.
    report = make_campaign(sent((0, 0, 0, 500, 400), (1, 300, 6, 100, 1), (2, 100, 40, 100, 20)))
    assert report.lift.value == pytest.approx(46 / (300 * 0.01 + 100 * 0.2))
    assert report.extra.value == pytest.approx(46 - 23)
    assert (report.targeted.sent, report.targeted.engaged) == (400, 46)
    assert (report.random.sent, report.random.engaged) == (200, 21)
    assert [day.lift.value for day in report.days[1:]] == pytest.approx([2.0, 2.0])
    assert isnan(report.days[0].lift.value)
    assert report.num_messages == 1100


def test_the_intervals_hold_what_they_promise():
    rng = np.random.default_rng(5)
    p, q, moods = 0.06, 0.02, np.array([1.0, 0.7, 1.4, 1.1])
    targeted, random = np.array([400, 300, 450, 450]), np.array([50, 60, 50, 80])
    truth = p / q
    beyond = (targeted * moods).sum() * (p - q)
    covered = extra = 0
    for _ in range(400):
        days = [
            module._day(day, n, rng.binomial(n, p * mood), m, rng.binomial(m, q * mood))
            for day, (n, m, mood) in enumerate(zip(targeted, random, moods, strict=True))
        ]
        group = module._group(targeted.sum(), sum(day.targeted.engaged for day in days))
        weighted = module._weighted(days)
        lift = ratio(group.rate, weighted.rate)
        covered += lift.low <= truth <= lift.high
        found = module._extra(group, weighted)
        extra += found.low <= beyond <= found.high
    # 95 % of 400 are 380, three standard errors are 13.
    assert 365 <= covered <= 396
    assert 365 <= extra <= 396


def test_a_ratio_without_hits_has_an_open_end():
    none = Estimate(value=0.0, low=0.0, high=0.07)
    some = Estimate(value=0.2, low=0.14, high=0.27)
    assert ratio(some, none).value == ratio(some, none).high == inf
    assert 1 < ratio(some, none).low < 20
    assert ratio(none, some).value == ratio(none, some).low == 0.0
    assert ratio(none, some).high < 1
    assert isnan(ratio(none, none).value)
    assert (ratio(none, none).low, ratio(none, none).high) == (0.0, inf)


def test_a_day_on_which_nobody_of_a_group_engaged_has_an_open_end():
    for num_random in range(1, 200):
        lift = make_campaign(sent((1, 100, 7, num_random, 0))).days[0].lift
        assert lift.value == lift.high == inf
        assert 0 < lift.low < inf
    none = make_campaign(sent((1, 100, 0, 40, 3))).lift
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0 < none.high < inf


def test_the_headline_says_whether_it_is_shown():
    good = make_campaign(sent((1, 1000, 100, 500, 10)))
    assert good.headline.startswith("The targeted engaged 5.00 (")
    assert good.lift.low > 2
    assert make_campaign(sent((1, 30, 2, 30, 1))).headline.startswith("Not shown yet")
    assert make_campaign(sent((1, 1000, 10, 1000, 100))).headline.startswith("Targeting did harm")
    assert make_campaign(sent((1, 0, 0, 9, 1))).headline.startswith("Nothing to compare yet")
    assert make_campaign(sent()).days == ()


def test_warnings_name_what_is_missing():
    table = sent((1, 100, 9, 0, 0), (2, 100, 9, 50, 2))
    waiting = pl.DataFrame(
        {"day": [3, 3], "why": ["target", "explore"], "engaged": [None, None]},
        schema=table.schema,
    )
    report = make_campaign(pl.concat([table, waiting]))
    assert report.num_unanswered == 2
    assert report.targeted.sent == 100
    text = " ".join(report.warnings)
    assert "2 messages are not answered" in text
    assert "On day 1 nobody was drawn at random" in text
    assert "Only 2 of the random group" in text


def test_the_page_is_whole_by_itself_and_equal_for_equal_messages(tmp_path):
    table = sent((0, 0, 0, 200, 4), (1, 180, 14, 20, 1), (2, 180, 22, 20, 0))
    one, two = tmp_path / "one.html", tmp_path / "two.html"
    report = write_campaign(table, one, title="A <new> asset")
    write_campaign(table.sample(fraction=1.0, shuffle=True, seed=1), two, title="A <new> asset")
    page = one.read_text()
    assert one.read_bytes() == two.read_bytes()
    assert "A &lt;new&gt; asset" in page
    assert "<new>" not in page
    assert report.headline in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert page.count("<svg") == 2
    assert "no limit" in page
    assert "nan" not in page.lower().replace("finance", "")


def test_a_campaign_without_answers_still_has_a_page(tmp_path):
    path = tmp_path / "empty.html"
    write_campaign(sent(), path)
    assert "Nothing to compare yet" in path.read_text()


def test_a_table_that_is_no_campaign_is_refused():
    table = sent((1, 5, 1, 5, 1))
    with pytest.raises(InvalidTable, match="column `why`"):
        make_campaign(table.drop("why"))
    with pytest.raises(InvalidTable, match="explore or target, got `luck`"):
        make_campaign(table.with_columns(why=pl.lit("luck")))
    with pytest.raises(InvalidTable, match="0, 1 or null, got 2"):
        make_campaign(table.with_columns(engaged=pl.lit(2, pl.Int8)))
