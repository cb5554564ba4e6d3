"""The chain beside the demo's exchange: where withdrawals go, and how risky that is.

The simulated users' withdrawals live on, on a simulated chain. It is written as files of Ethereum
ETL and read from them, learned on the day of the model, and updated once while the exchange
lives through the rest. Before each withdrawal the log is told what the last run said of its
address, and one rule, as an analyst would write it, lets risky ones wait for a review.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from chopmark.datasets import Simulation
from chopmark.datasets.chain import simulate_chain, write_ethereum_etl
from chopmark.decisions import Decision
from chopmark.engine import Engine
from chopmark.events import Event
from chopmark.events.schema import type_name
from chopmark.features.columns import known_instant
from chopmark.graph.ethereum import read_ethereum
from chopmark.graph.scored import AddressScored
from chopmark.graph.transfers import Read
from chopmark.pipelines.chain import ChainFolder, Learned, Told
from chopmark.pipelines.chainrun import Recipe
from chopmark.pipelines.exchange import ADDRESS_RISK
from chopmark.rules import Effects
from chopmark.rules.book import effects_text
from chopmark.rules.orders import RuleDrafted, RuleReviewed, RuleStaged
from chopmark.times import DAY, instant, moment

RISKY = 0.05
"""From here on a withdrawal waits: far above one address in a thousand, which is usual."""

RULE = "risky_address"
_WHEN = f"event_type == 'withdrawal' and {ADDRESS_RISK.name} >= {RISKY}"
_THEN = Effects(delay_hours=24.0, queue="withdrawals", tags=("risky address",))
_RECIPE = Recipe(dim=16, num_walks=3, length=20, hops=1, sampled=4_000)
_ADDRESSES = 3_000
_ILLICIT = 0.005


@dataclass(frozen=True, slots=True)
class Watch:
    """Scores of the addresses that withdrawals go to, by run.

    Attributes
    ----------
    learned, updated : Learned
        What the two runs did.
    runs : tuple of (instant, name, scores by address)
        In the order of time; each holds from its instant on.
    """

    learned: Learned
    updated: Learned
    runs: tuple[tuple[int, str, dict[str, float]], ...]

    def beside(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, and before a withdrawal what the last run says of its address."""
        told: dict[str, tuple[str, float]] = {}
        for event in events:
            if type_name(event) == "withdrawal":
                known = known_instant(event)
                address = str(getattr(event, "address"))  # noqa: B009 - only withdrawals have one
                for begin, name, scores in reversed(self.runs):
                    if begin <= known:
                        score = scores.get(address)
                        if score is not None and told.get(address) != (name, score):
                            told[address] = (name, score)
                            yield AddressScored(
                                id=f"scored-{name}-{address}", happened_at=moment(known),
                                known_at=moment(known), address=address, score=score, run=name,
                            )  # fmt: skip
                        break
            yield event


@dataclass(frozen=True, slots=True)
class Held:
    """What the rule did to withdrawals.

    Attributes
    ----------
    num_withdrawals, num_fraudulent
        All that were decided about.
    num_known
        Of these, to addresses that the chain knew by then.
    num_held, num_held_fraudulent
        That had to wait by the rule.
    held_usd
        Fraudulent money that had to wait: what the rule may have saved (row H13).
    lost_usd
        Fraudulent money of all of them.
    """

    num_withdrawals: int
    num_fraudulent: int
    num_known: int
    num_held: int
    num_held_fraudulent: int
    held_usd: float
    lost_usd: float


def watch(
    simulation: Simulation,
    folder: Path,
    *,
    days: int,
    live_days: int,
    seed: int = 0,
    told: Told | None = None,
) -> Watch:
    """Simulate the chain, read it from files, learn it, and update it halfway through the rest."""
    truth = simulation.event_truth.select("id", "is_fraud")
    chain = simulate_chain(
        num_addresses=_ADDRESSES, days=days, seed=seed, illicit=_ILLICIT,
        withdrawals=simulation.frame("withdrawal").join(truth, on="id"),
        start=moment(simulation.start),
    )  # fmt: skip
    write_ethereum_etl(chain, folder / "files")
    every = Read.of(
        read_ethereum(
            folder / "files" / "transactions.csv", folder / "files" / "token_transfers.csv"
        )
    ).transfers
    cut = moment(simulation.end - live_days * DAY)
    half = cut + timedelta(days=live_days / 2)
    kept = ChainFolder.create(folder / "chain")
    kept.take(every.filter(pl.col("happened_at") <= cut))
    known = chain.labels.filter(pl.col("known_at") <= cut)
    addresses = simulation.frame("withdrawal")["address"].unique(maintain_order=True)
    runs = []
    learned = kept.learn(known, _RECIPE, told=told)
    runs.append((instant(cut), learned.run, _scores(kept, addresses)))
    kept.take(every.filter(pl.col("happened_at").is_between(cut, half, closed="right")))
    updated = kept.update(told=told)
    runs.append((instant(half), updated.run, _scores(kept, addresses)))
    return Watch(learned, updated, tuple(runs))


def hold_risky(engine: Engine, now: datetime) -> None:
    """Write the rule, have it reviewed by a second person, and let it act."""
    at: dict[str, Any] = {"happened_at": now, "known_at": now}
    engine.observe(
        RuleDrafted(id="chain-1", **at, rule=RULE, version=1, when=_WHEN,
                    effects=effects_text(_THEN), because="money goes to a risky address",
                    author="ann")
    )  # fmt: skip
    engine.observe(
        RuleReviewed(id="chain-2", **at, rule=RULE, version=1, approved=True, author="bob")
    )
    engine.observe(
        RuleStaged(id="chain-3", **at, rule=RULE, version=1, stage="active", moves=0.0,
                   author="ann", approver="bob")
    )  # fmt: skip


def held(simulation: Simulation, decisions: Sequence[Decision], risk: int) -> Held:
    """What became of withdrawals, by the truth.

    Parameters
    ----------
    risk
        Place of `ADDRESS_RISK` among the values of a decision.
    """
    truth = dict(simulation.event_truth.select("id", "is_fraud").iter_rows())
    usd = dict(simulation.frame("withdrawal").select("id", "amount_usd").iter_rows())
    ours = [one for one in decisions if one.about_type == "withdrawal" and one.about in usd]
    waits = [one for one in ours if any(hit.rule == RULE for hit in one.rules)]
    caught = [one for one in waits if truth[one.about]]
    bad = [one for one in ours if truth[one.about]]
    return Held(
        num_withdrawals=len(ours),
        num_fraudulent=len(bad),
        num_known=sum(one.values[risk] is not None for one in ours),
        num_held=len(waits),
        num_held_fraudulent=len(caught),
        held_usd=sum(usd[one.about] for one in caught),
        lost_usd=sum(usd[one.about] for one in bad),
    )


def _scores(chain: ChainFolder, addresses: pl.Series) -> dict[str, float]:
    found = chain.risks(addresses).drop_nulls("score")
    return dict(found.select("address", pl.col("score").cast(pl.Float64)).iter_rows())
