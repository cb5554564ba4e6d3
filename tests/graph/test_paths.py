"""Paths to labels and haircut exposure, beside a plain Python search over dictionaries."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput
from chopmark.graph.paths import Flows, Tracer

transfers = st.lists(
    st.tuples(
        st.integers(0, 8), st.integers(0, 8), st.sampled_from([0.0, 0.5, 1.0, 4.0]),
        st.integers(0, 12),
    ),
    max_size=40,
)  # fmt: skip


def _exposure(rows, start, labels, *, until, depth=6, hub=10**9, dust=0.0):
    """By label, the haircut share: levels of dictionaries, newest bound and summed share."""
    exposure, at_hubs = defaultdict(float), 0.0
    level = {start: (until, 1.0)}
    for hop in range(depth + 1):
        following = {}
        for node, (bound, share) in level.items():
            if node in labels:
                exposure[labels[node]] += share
                continue
            into = [r for r in rows if r[1] == node and r[0] != node]
            if hop > 0 and hop < depth and len(into) > hub:
                at_hubs += share
                continue
            into = [r for r in into if r[3] <= bound and r[2] >= dust and r[2] > 0]
            total = sum(r[2] for r in into)
            for src, _, amount, when in into:
                had = following.get(src, (-1, 0.0))
                following[src] = (max(had[0], when), had[1] + share * amount / total)
        level = following
    return dict(exposure), at_hubs


def _distance(rows, start, wanted, stops, *, until, depth):
    """Hops of the shortest way: every sequence of transfers, tried one by one."""
    best = None
    ways = [(start, until, 0)]
    seen = set()
    while ways:
        node, bound, hops = ways.pop()
        if (node, bound, hops) in seen:
            continue
        seen.add((node, bound, hops))
        if node in wanted:
            best = hops if best is None else min(best, hops)
        if node in stops or hops == depth:
            continue
        ways += [(r[0], r[3], hops + 1) for r in rows
                 if r[1] == node and r[0] != node and r[3] <= bound and r[2] > 0]  # fmt: skip
    return best


def _flows(rows, direction="in", num_nodes=9):
    src, dst, amount, when = (np.array(x) for x in zip(*rows, strict=True)) if rows else [[]] * 4
    return Flows.of_edges(src, dst, amount, when, num_nodes=num_nodes, direction=direction)


@settings(max_examples=80, deadline=None)
@given(rows=transfers, start=st.integers(0, 8), until=st.integers(0, 13), hub=st.integers(1, 9))
def test_exposure_is_that_of_a_plain_search_and_the_path_is_as_short_as_any(
    rows, start, until, hub
):
    labels = {1: "mixer", 2: "exchange", 3: "mixer"}
    tracer = Tracer(_flows(rows), marked=list(labels), kinds=list(labels.values()), hub=hub,
                    depth=4, min_share=0.0)  # fmt: skip
    trace = tracer.trace(start, until=until)
    exposure, at_hubs = _exposure(rows, start, labels, until=until, depth=4, hub=hub)
    assert trace.exposure == pytest.approx(exposure)
    assert trace.at_hubs == pytest.approx(at_hubs)
    assert trace.given_up == 0
    free = Tracer(_flows(rows), marked=list(labels), kinds=list(labels.values()), depth=4,
                  min_share=0.0)  # fmt: skip
    for sought, wanted in ((["mixer"], {1, 3}), (None, {1, 2, 3})):
        path = free.trace(start, until=until, sought=sought).path
        hops = _distance(rows, start, wanted, set(labels), until=until, depth=4)
        assert (None if path is None else path.hops) == hops
        if path is not None:
            _check_path(path, rows, until)
            assert path.nodes[0] == start
            assert path.kind == labels[path.nodes[-1]]


def _check_path(path, rows, until):
    """Each hop's figures from the transfers themselves, and time never goes forward."""
    bound = until
    for hop, (near, far) in enumerate(zip(path.nodes[:-1], path.nodes[1:], strict=True)):
        into = [r for r in rows if r[1] == near and r[0] != near and r[3] <= bound]
        of_pair = [r for r in into if r[0] == far and r[2] > 0]
        assert path.amounts[hop] == pytest.approx(sum(r[2] for r in of_pair))
        assert path.shares[hop] == pytest.approx(path.amounts[hop] / sum(r[2] for r in into))
        assert path.times[hop] == max(r[3] for r in of_pair) <= bound
        bound = path.times[hop]
    assert path.share <= 1 + 1e-9


@settings(max_examples=60, deadline=None)
@given(rows=transfers, start=st.integers(0, 8), at=st.integers(0, 12))
def test_forward_is_backward_in_a_mirror(rows, start, at):
    mirrored = [(dst, src, amount, 12 - when) for src, dst, amount, when in rows]
    marked = {"marked": [1, 2], "kinds": ["mixer", "exchange"]}
    forward = Tracer(_flows(rows, "out"), **marked).trace(start, until=at)
    backward = Tracer(_flows(mirrored), **marked).trace(start, until=12 - at)
    assert forward.exposure == pytest.approx(backward.exposure)
    assert (forward.path is None) == (backward.path is None)
    if forward.path is not None and backward.path is not None:
        assert forward.path.hops == backward.path.hops
        assert list(forward.path.times) == sorted(forward.path.times)
        assert min(forward.path.times, default=at) >= at


def test_money_that_came_too_late_or_through_a_service_does_not_count():
    rows = [(0, 1, 5.0, 50), (1, 2, 5.0, 40), (0, 3, 1.0, 1), (3, 2, 5.0, 45), (3, 4, 1.0, 60)]
    mixer = Tracer(_flows(rows), marked=[0], kinds=["mixer"]).trace(2)
    # What 1 paid at 40 cannot be what it got at 50; 3 had got all from the mixer.
    assert mixer.path.nodes == (2, 3, 0)
    assert mixer.exposure == {"mixer": 0.5}
    both = Tracer(_flows(rows), marked=[0, 3], kinds=["mixer", "exchange"])
    assert both.trace(2, sought=["mixer"]).path is None
    assert both.trace(2).path.kind == "exchange"
    assert both.trace(0).path.hops == 0


def test_dust_and_hubs_and_limits_end_the_search_and_it_says_so():
    rows = [(0, 1, 0.001, 1), (5, 1, 1.0, 1), (1, 2, 1.0, 2)]
    dusty = Tracer(_flows(rows), marked=[0], kinds=["scam"], dust=0.01)
    assert dusty.trace(2).path is None
    assert Tracer(_flows(rows), marked=[0], kinds=["scam"]).trace(2).path is not None
    hub = Tracer(_flows(rows), marked=[0], kinds=["scam"], hub=1).trace(2)
    assert hub.path is None
    assert hub.at_hubs == 1.0
    assert Tracer(_flows(rows), marked=[0], kinds=["scam"], max_reads=2).trace(2).given_up == 1.0
    poor = Tracer(_flows(rows), marked=[0], kinds=["scam"], min_share=0.5).trace(2)
    assert poor.path is not None  # the last hop is read, but not followed further
    chain = [(i, i + 1, 1.0, i) for i in range(8)]
    assert Tracer(_flows(chain), marked=[0], kinds=["scam"]).trace(7).path is None
    assert Tracer(_flows(chain), marked=[0], kinds=["scam"]).trace(6).path.hops == 6


def test_exposures_never_exceed_the_whole():
    rng = np.random.default_rng(0)
    num, many = 20_000, 200_000
    src = (num * rng.random(many) ** 3).astype(np.int64)
    dst = (num * rng.random(many) ** 2).astype(np.int64)
    flows = Flows.of_edges(src, dst, rng.lognormal(0, 2, many), rng.integers(0, 10**7, many))
    marked = rng.choice(flows.num_nodes, 400, replace=False)
    kinds = rng.choice(["mixer", "theft", "exchange"], 400).tolist()
    tracer = Tracer(flows, marked=marked, kinds=kinds, hub=200, min_share=1e-3)
    num_found = 0
    for node in rng.choice(flows.num_nodes, 300).tolist():
        trace = tracer.trace(node)
        num_found += trace.path is not None
        assert sum(trace.exposure.values()) + trace.at_hubs + trace.given_up <= 1 + 1e-9
    assert num_found > 100


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"src": [-1]}, "ids from 0"),
        ({"dst": [7]}, "ids from 0"),
        ({"amount": [np.nan]}, "got nan in row 0"),
        ({"amount": [-1.0]}, "got -1.0 in row 0"),
        ({"time": [10**15]}, "microseconds"),
        ({"time": [1, 2]}, "one length"),
        ({"src": [0.5]}, "whole numbers"),
    ],
)
def test_flows_refuse_what_cannot_be(wrong, message):
    right = {"src": [0], "dst": [1], "amount": [1.0], "time": [5]}
    with pytest.raises(InvalidInput, match=message):
        Flows.of_edges(**{**right, **wrong}, num_nodes=3)


def test_a_tracer_refuses_what_cannot_be():
    flows = _flows([(0, 1, 1.0, 1)])
    for wrong in (
        {"marked": [9]}, {"marked": [1, 1], "kinds": ["a", "b"]}, {"depth": 7}, {"dust": -1.0},
        {"kinds": []}, {"min_share": 1.0},
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            Tracer(flows, **{"marked": [0], "kinds": ["a"], **wrong})
    tracer = Tracer(flows, marked=[0], kinds=["mixer"])
    with pytest.raises(InvalidInput, match="did you mean `mixer`"):
        tracer.trace(1, sought=["mixr"])
    with pytest.raises(InvalidInput, match="from 0 to 8"):
        tracer.trace(9)


def test_empty_flows_lead_nowhere():
    trace = Tracer(_flows([]), marked=[], kinds=[]).trace(3)
    assert (trace.path, trace.exposure, trace.given_up) == (None, {}, 0.0)
