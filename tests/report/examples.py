"""Small tables with a known truth, and models that answer in a line."""

import numpy as np
import polars as pl

from chopmark.models import Contributions


def payments(n, seed):
    """Payments of which some are bad: more often where they are large, and from `ng`."""
    rng = np.random.default_rng(seed)
    amount = np.round(rng.lognormal(4, 1, n), 2)
    country = rng.choice(["de", "fr", "ng"], n)
    age = rng.integers(0, 400, n)
    z = np.log(amount) - 5.5 + 1.5 * (country == "ng") - age / 200
    bad = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int)
    return pl.DataFrame(
        {
            "payment number": np.arange(n) + seed * 100_000,
            "amount_usd": amount,
            "country": country.tolist(),
            "age_days": pl.Series(np.where(rng.random(n) < 0.1, None, age).tolist()),
            "is_new": (rng.random(n) < 0.3).tolist(),
            "target": bad,
        }
    )


class Line:
    """Least squares on one number; its contributions are exact."""

    task = "regression"
    reads = ("x",)

    def fit(self, table, *, target):
        x, y = table["x"].to_numpy(), table[target].to_numpy()
        self.center = float(x.mean())
        self.slope, self.level = np.polyfit(x - self.center, y, 1)
        return self

    def predict(self, table):
        return self.explain(table).log_odds()

    score = predict

    def predict_proba(self, table):
        raise NotImplementedError

    def explain(self, table):
        moves = self.slope * (table["x"].to_numpy() - self.center)
        return Contributions(reads=self.reads, values=moves[:, None], bias=float(self.level))

    def importance(self):
        return {"x": 1.0}

    def save(self, path):
        raise NotImplementedError

    @classmethod
    def load(cls, path):
        raise NotImplementedError


class Nearest(Line):
    """Three classes around three points on a line, by softmax of the negative distance."""

    task = "multiclass"
    classes = ("low", "middle", "high")

    def fit(self, table, *, target):
        self.centers = [table.filter(pl.col(target) == name)["x"].mean() for name in self.classes]
        return self

    def predict_proba(self, table):
        away = -np.abs(table["x"].to_numpy()[:, None] - np.array(self.centers))
        odds = np.exp(3 * away)
        return odds / odds.sum(axis=1, keepdims=True)

    def explain(self, table, *, of):
        p = self.predict_proba(table)[:, [self.classes.index(of)]]
        odds = np.log(p) - np.log1p(-p)
        return Contributions(reads=self.reads, values=odds + 1.0, bias=-1.0)
