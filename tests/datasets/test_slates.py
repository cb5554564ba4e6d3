import polars as pl

from chopmark.datasets import news_slates, simulate


def test_a_slate_is_a_visit_with_all_assets_and_marks_what_was_opened():
    simulation = simulate(num_users=300, days=60, seed=4, scenarios=())
    slates = news_slates(simulation)
    assets = simulation.asset_factors["asset"]
    by_visit = slates.group_by("visit").agg(pl.len(), pl.col("asset").n_unique().alias("assets"),
                                            pl.col("opened").sum())  # fmt: skip
    assert set(by_visit["len"]) == set(by_visit["assets"]) == {len(assets)}
    assert by_visit["opened"].min() == 1

    read = simulation.frame("page_view").filter(page="news")
    logins = simulation.frame("login")
    opened = slates.filter(opened=1)
    assert opened.height > 200
    for row in opened.iter_rows(named=True):
        login = logins.row(by_predicate=pl.col("id") == row["visit"], named=True)
        assert (login["user"], login["happened_at"]) == (row["user"], row["happened_at"])
        own = read.filter(pl.col("happened_at") > row["happened_at"], user=row["user"])
        assert row["asset"] in own["asset"].implode().item().to_list()
    # Nothing that was read is lost, and the rows are in the order of time.
    assert opened.select("user", "asset").unique().height == (
        read.select("user", "asset").unique().height
    )
    assert slates["happened_at"].is_sorted()
