"""What the service counts, in the text format of Prometheus.

Counting a request costs well under a microsecond: plain integers, turned into metric
families only when someone asks. One thread counts (the event loop), the same one reads.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

if TYPE_CHECKING:
    from chopmark.graph.risks import AddressRisks

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Histogram:
    """Counts of values by upper bounds.

    Parameters
    ----------
    bounds : tuple of float
        Ascending; what is above the last one is counted too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        summed = 0
        found = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            summed += count
            found.append(("+Inf" if bound == float("inf") else str(bound), float(summed)))
        return found


class Metrics:
    """All counts of one service.

    Attributes
    ----------
    answers : dict of (route, status) to int
    seconds : dict of route to Histogram
        From the request's headers to its answer.
    group_events : Histogram
        Events (decisions included) that one fsync made durable.
    sync_seconds : Histogram
    decisions, degraded, repeated : int
        Decisions made; of them without a score; answers given again.
    ingested, told : int
        Events taken without a decision; times that the log was told of an address.
    sync_failures, snapshot_failures, recoveries : int
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}
        self.seconds: dict[str, Histogram] = {}
        self.group_events = Histogram(SIZES)
        self.sync_seconds = Histogram(SECONDS)
        self.decisions = 0
        self.degraded = 0
        self.repeated = 0
        self.ingested = 0
        self.told = 0
        self.sync_failures = 0
        self.snapshot_failures = 0
        self.recoveries = 0

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        key = (route, status)
        self.answers[key] = self.answers.get(key, 0) + 1
        histogram = self.seconds.get(route)
        if histogram is None:
            histogram = self.seconds[route] = Histogram(SECONDS)
        histogram.observe(seconds)

    def text(
        self,
        *,
        gauges: dict[str, tuple[str, float]],
        info: dict[str, str],
        chains: "Mapping[str, AddressRisks] | None" = None,
    ) -> bytes:
        """All metrics in Prometheus' text format.

        Parameters
        ----------
        gauges : dict of name to (help, value)
            What is read off rather than counted.
        info : dict of label to value
            Hashes of what decides now.
        chains : mapping of str to AddressRisks, optional
            The chains that are served.
        """
        registry = CollectorRegistry(auto_describe=False)
        families = [*self._families(), *_gauges(gauges, info), *_of_chains(chains or {})]
        registry.register(_Families(families))
        return generate_latest(registry)

    def _families(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "chopmark_requests", "Answers by route and HTTP status.", labels=["route", "status"]
        )
        for (route, status), count in self.answers.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "chopmark_request_seconds", "From a request to its answer.", labels=["route"]
        )
        for route, histogram in self.seconds.items():
            seconds.add_metric([route], histogram.buckets(), histogram.total)
        yield seconds
        for name, text, histogram in (
            ("group_events", "Events made durable by one fsync.", self.group_events),
            ("sync_seconds", "Time of one commit with its fsync.", self.sync_seconds),
        ):
            family = HistogramMetricFamily(f"chopmark_{name}", text)
            family.add_metric([], histogram.buckets(), histogram.total)
            yield family
        for name, text, value in (
            ("decisions", "Decisions made.", self.decisions),
            ("degraded_decisions", "Decisions made without a score.", self.degraded),
            ("repeated", "Repeats that got the recorded answer.", self.repeated),
            ("ingested_events", "Events taken without a decision.", self.ingested),
            ("addresses_told", "Times that the log was told of an address.", self.told),
            ("sync_failures", "Failures of the log.", self.sync_failures),
            ("recoveries", "Recoveries of log and state.", self.recoveries),
            ("snapshot_failures", "Snapshots that could not be written.", self.snapshot_failures),
        ):
            yield CounterMetricFamily(f"chopmark_{name}", text, value=value)


def _of_chains(chains: "Mapping[str, AddressRisks]") -> Iterator[Metric]:
    for risks in chains.values():
        risks.follow()  # also where nobody asks of addresses
    for name, text, value in (
        ("chain_run", "The run that answers about addresses.", lambda one: float(one.run)),
        ("chain_addresses", "Addresses that its run knows.", lambda one: float(len(one))),
        ("chain_trouble", "Whether a folder is not followed now.", lambda one: bool(one.trouble)),
    ):
        if chains:
            family = GaugeMetricFamily(f"chopmark_{name}", text, labels=["chain"])
            for chain, risks in chains.items():
                family.add_metric([chain], value(risks))
            yield family


class _Families:
    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


def _gauges(gauges: dict[str, tuple[str, float]], info: dict[str, str]) -> Iterator[Metric]:
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(f"chopmark_{name}", text, value=value)
    family = GaugeMetricFamily("chopmark_info", "What decides now.", labels=list(info))
    family.add_metric(list(info.values()), 1.0)
    yield family
