"""kill -9 of a process that decides: what it acknowledged is there once, and no state is lost.

A child assesses the same traffic again and again from where its log ends, and prints the
number of decided events after each sync: what it printed is acknowledged.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chopmark.decisions import Decision
from chopmark.engine import Engine
from chopmark.events import MemoryLog

from .shop import APPLICATION, HandScorer, Purchase, opened, run, timeless, traffic

ROOT = Path(__file__).parents[2]
NUM_EVENTS = 240
CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.engine.shop import Purchase, opened, traffic

place, count = sys.argv[2], int(sys.argv[3])

def killed_at(name, act, before):
    def wrapped(*arguments, **options):
        global count
        if place == name:
            count -= 1
        if before and place == name and count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = act(*arguments, **options)
        if place == name and count == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

engine = opened(sys.argv[1])
log = engine.log
log.append_encoded = killed_at("before append", log.append_encoded, True)
log.append_encoded = killed_at("after append", log.append_encoded, False)
log.sync = killed_at("before sync", log.sync, True)
log.sync = killed_at("after sync", log.sync, False)
engine.fold.step = killed_at("after step", engine.fold.step, False)
from chopmark.features import fold
fold.os.replace = killed_at("before replace", fold.os.replace, True)
done = 0
for number, event in enumerate(traffic({num_events}), start=1):
    if isinstance(event, Purchase):
        engine.assess(event)
    else:
        engine.observe(event)
    if number % 11 == 0:
        log.sync()
        print(number, flush=True)
    if number % 40 == 0:
        log.sync()
        engine.snapshot().write(Path(sys.argv[1]) / "state.npz")
log.sync()
print({num_events}, flush=True)
log.close()
"""


def child(path, place, count):
    """How the child ended, and the number of events that it acknowledged."""
    ended = subprocess.run(
        [sys.executable, "-c", CHILD.format(root=str(ROOT), num_events=NUM_EVENTS),
         str(path), place, str(count)],
        capture_output=True, text=True, timeout=120, cwd=ROOT, check=False,
    )  # fmt: skip
    lines = ended.stdout.split("\n")[:-1]
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode, int(lines[-1]) if lines else 0


def check_whole(path, num_acknowledged):
    """Each acknowledged event and decision once, and the state that of a rebuild."""
    events = traffic(NUM_EVENTS)
    one = opened(path)
    found = [event for batch in one.log.read() for _, event in batch]
    ids = [event.id for event in found]
    assert len(set(ids)) == len(ids)
    facts = [event for event in found if not isinstance(event, Decision)]
    assert [event.id for event in facts] == [event.id for event in events[: len(facts)]]
    assert len(facts) >= num_acknowledged
    decided = [event.id for event in facts if isinstance(event, Purchase)]
    assert [event.about for event in found if isinstance(event, Decision)] == decided
    # An engine that never failed, with the same key, over the same events.
    never = Engine(
        APPLICATION, log=MemoryLog(APPLICATION.catalog.schema), vault=one.vault,
        scorer=HandScorer(), trust_known_at=True,
    )  # fmt: skip
    expected = run(never, events[: len(facts)])
    assert timeless(event for event in found if isinstance(event, Decision)) == timeless(expected)
    rest = events[len(facts) :]
    assert timeless(run(one, rest)) == timeless(run(never, rest))
    one.log.close()


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("after step", 100),
        ("after append", 95),
        ("before sync", 13),
        ("after sync", 17),
        ("before replace", 3),
    ],
)
def test_killed_at_a_named_point_and_again(tmp_path, place, count):
    ended, acknowledged = child(tmp_path, place, count)
    assert ended == -signal.SIGKILL
    assert 0 < acknowledged < NUM_EVENTS
    check_whole(tmp_path, acknowledged)


def test_killed_twice_and_finished(tmp_path):
    known = 0
    for place, count in (("after sync", 3), ("after append", 150)):
        ended, acknowledged = child(tmp_path, place, count)
        assert ended == -signal.SIGKILL
        known = max(known, acknowledged)
    ended, acknowledged = child(tmp_path, "never", 0)
    assert (ended, acknowledged) == (0, NUM_EVENTS)
    assert not list(tmp_path.glob("*.partial"))
    check_whole(tmp_path, NUM_EVENTS)
