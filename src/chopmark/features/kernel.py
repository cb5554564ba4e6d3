"""The one step function: reads an entity's features, then adds the event to its state.

Serving calls `advance` for one event and training for ten million; the same machine code
runs over the same arrays, and how the events are cut into calls changes nothing. It is
driven by the tables of a `chopmark.features.plan.Plan`, so that it is compiled once for
all catalogs and kept on disk.

State
-----
All state lives in one pool of int64 words. A **cell** holds the state of one entity: a
block of words for each stream that it has. A **stream** is the set of aggregates over the
same events of the same entity; where it has windows, each of its events is a **record**, a
node of a list that is doubly linked in the order of ``happened_at``. A window keeps the
oldest record inside it and integer accumulators; time moves on by walking that end of the
window forward and taking each record out again, so a step costs O(1) amortised, however
long the window, and nothing is ever recomputed. (Label rates: `chopmark.features.holders`.)

- Sums are integers of a field's steps: taking out is the exact inverse of putting in.
  Squares are kept as sums over 20-bit halves, which cannot overflow.
- Distinct counts: a record is *superseded* once a later record of the same value exists;
  the number of distinct values in a window is its number of records not superseded by
  another one inside it.
- Maxima and minima: records that no later record dominates form a second linked list. A
  dominated record points to the one that dominated it, so a window's cursor that was left
  on it finds the way by following the links (as in union-find).

Late events (``happened_at`` before the newest) are inserted at their place, found from the
newest backwards: their cost is the number of younger records of their entity. They enter
only the windows that still reach them.
"""

# ruff: noqa: SIM109 - numba compiles `a == x or a == y` to two comparisons, a tuple to a loop
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# The kernels are typed by numba from their arguments; `features.fold` is the typed door.

import math

import numpy as np
from numba import njit

from chopmark.features.hashing import key_of, remove, slot_of
from chopmark.features.holders import join, mark_bad, rate_of
from chopmark.features.plan import (
    A_CELL,
    A_FIELD,
    A_KIND,
    ACC_COUNT,
    ACC_DISTINCT,
    ACC_MAX,
    ACC_MIN,
    ACC_SUM,
    BUMP,
    CLOCK,
    F_MAX,
    F_MAX_HEAD,
    F_MIN,
    F_MIN_HEAD,
    F_ROW,
    F_SUPERSEDED,
    F_VALUE,
    LIFE_FIRST,
    LIFE_LAST,
    LIFE_MAX,
    LIFE_MIN,
    NUM_CELLS,
    NUM_MARKS,
    O_A,
    O_B,
    O_C,
    O_FIELD,
    O_OP,
    O_ROW,
    OUT_COUNT,
    OUT_EXTREME,
    OUT_LAST,
    OUT_LIFE_EXTREME,
    OUT_LIFE_LAST,
    OUT_MEAN,
    OUT_SECONDS_SINCE,
    OUT_STD,
    OUT_SUM,
    P_ATTRIBUTE_CELL,
    P_DELAY,
    P_HOLDER_CELL,
    P_ROW,
    S_CELL,
    S_FIELD0,
    S_FIELD1,
    S_LIFE0,
    S_LIFE1,
    S_OUT0,
    S_OUT1,
    S_RECORD,
    S_WINDOW0,
    S_WINDOW1,
    V_ENTITY,
    V_FEED0,
    V_FEED1,
    V_KIND,
    V_READ0,
    V_READ1,
    V_WIDTH,
    W_ACC0,
    W_ACC1,
    W_LENGTH,
    W_TAIL,
)

# Words of a record, before the words of its fields.
TIME, NEXT, PREVIOUS = 0, 1, 2
# Words of a stream's block in a cell, before those of its windows.
NEWEST, OLDEST = 0, 1

MISSING = np.int64(-(2**63))
DEAD = np.int64(-1)
HALF = np.int64(2**20)


@njit(cache=True, error_model="numpy")
def find_cell(pool, directory, header, kind, code, width):
    """The cell of an entity; made, all zero, if it has none."""
    key = key_of(code, kind)
    slot = slot_of(directory, key)
    if directory[slot, 0] == 0:
        cell = header[BUMP]
        header[BUMP] = cell + width
        for word in range(cell, cell + width):
            pool[word] = 0
        directory[slot, 0] = key
        directory[slot, 1] = cell
        header[NUM_CELLS] += 1
    return directory[slot, 1]


@njit(cache=True, error_model="numpy", inline="always")
def _steps(value, scale):
    """A field's value as a whole number of its steps."""
    if math.isnan(value):
        return MISSING
    return np.int64(round(value * scale))


@njit(cache=True, error_model="numpy", inline="always")
def _accumulate(pool, place, kind, value, sign):
    """Put a value into an invertible accumulator (sign 1) or take it out (sign -1)."""
    if kind == ACC_COUNT:
        pool[place] += sign
    elif kind == ACC_SUM:
        pool[place] += sign * value
    else:
        high = value >> np.int64(20)
        low = value & (HALF - np.int64(1))
        pool[place] += sign * high * high
        pool[place + 1] += sign * high * low
        pool[place + 2] += sign * low * low
        pool[place + 3] += sign * high


@njit(cache=True, error_model="numpy", inline="always")
def _expire(pool, marks, header, free, streams, s, block, windows, accs, fields, as_of):
    """Move every window of a stream on to ``as_of``, and free what left the longest."""
    last = streams[s, S_WINDOW1] - 1
    for w in range(streams[s, S_WINDOW0], streams[s, S_WINDOW1]):
        cut = as_of - windows[w, W_LENGTH]
        record = pool[block + windows[w, W_TAIL]]
        if record == 0 or pool[record + TIME] > cut:
            continue
        while record != 0 and pool[record + TIME] <= cut:
            for a in range(windows[w, W_ACC0], windows[w, W_ACC1]):
                kind = accs[a, A_KIND]
                if kind == ACC_MAX or kind == ACC_MIN:
                    continue
                place = block + accs[a, A_CELL]
                f = accs[a, A_FIELD]
                if f < 0:
                    pool[place] -= 1
                    continue
                value = pool[record + fields[f, F_VALUE]]
                if value == MISSING:
                    continue
                if kind == ACC_DISTINCT:
                    if pool[record + fields[f, F_SUPERSEDED]] == 0:
                        pool[place] -= 1
                else:
                    _accumulate(pool, place, kind, value, np.int64(-1))
            record = pool[record + NEXT]
        pool[block + windows[w, W_TAIL]] = record
        for a in range(windows[w, W_ACC0], windows[w, W_ACC1]):
            kind = accs[a, A_KIND]
            if kind == ACC_MAX or kind == ACC_MIN:
                f = accs[a, A_FIELD]
                link = fields[f, F_MAX] if kind == ACC_MAX else fields[f, F_MIN]
                place = block + accs[a, A_CELL]
                cursor = pool[place]
                while cursor != 0 and (
                    pool[cursor + link + 1] == DEAD or pool[cursor + TIME] <= cut
                ):
                    cursor = pool[cursor + link]
                pool[place] = cursor
        if w == last:
            _release(pool, marks, header, free, streams, s, block, fields, record)


@njit(cache=True, error_model="numpy")
def _release(pool, marks, header, free, streams, s, block, fields, until):
    """Give the records before ``until``, which no window needs, back to the free list."""
    record = pool[block + OLDEST]
    while record != until:
        following = pool[record + NEXT]
        for f in range(streams[s, S_FIELD0], streams[s, S_FIELD1]):
            value = pool[record + fields[f, F_VALUE]]
            if fields[f, F_VALUE] == 0 or value == MISSING:
                continue
            superseded = fields[f, F_SUPERSEDED]
            if superseded != 0 and pool[record + superseded] == 0:
                header[NUM_MARKS] -= remove(marks, key_of(value, block + fields[f, F_VALUE]))
            for extreme in range(2):
                link = fields[f, F_MAX + 2 * extreme]
                if link != 0 and pool[record + link + 1] != DEAD:
                    later = pool[record + link]
                    if later != 0:
                        pool[later + link + 1] = 0
                    else:
                        pool[block + fields[f, F_MAX_HEAD + 2 * extreme]] = 0
        pool[record + NEXT] = free[s]
        free[s] = record
        record = following
    pool[block + OLDEST] = until
    if until == 0:
        pool[block + NEWEST] = 0
    else:
        pool[until + PREVIOUS] = 0


@njit(cache=True, error_model="numpy", inline="always")
def _new_record(pool, header, free, s, width):
    record = free[s]
    if record != 0:
        free[s] = pool[record + NEXT]
    else:
        record = header[BUMP]
        header[BUMP] = record + width
    for word in range(record, record + width):
        pool[word] = 0
    return record


@njit(cache=True, error_model="numpy")
def _dominate(pool, record, time, value, sign, v_word, link, head):
    """Enter a record into the list of maxima (sign 1) or minima (sign -1)."""
    later = np.int64(0)
    earlier = pool[head]
    while earlier != 0 and pool[earlier + TIME] > time:
        if sign * pool[earlier + v_word] >= sign * value:
            pool[record + link] = earlier
            pool[record + link + 1] = DEAD
            return
        later = earlier
        earlier = pool[earlier + link + 1]
    while earlier != 0 and sign * pool[earlier + v_word] <= sign * value:
        before = pool[earlier + link + 1]
        pool[earlier + link] = record
        pool[earlier + link + 1] = DEAD
        earlier = before
    pool[record + link] = later
    pool[record + link + 1] = earlier
    if earlier != 0:
        pool[earlier + link] = record
    if later != 0:
        pool[later + link + 1] = record
    else:
        pool[head] = record


@njit(cache=True, error_model="numpy", inline="always")
def _add_record(
    pool, marks, header, free, streams, s, block, windows, accs, fields, scales, columns, i, time,
    as_of,
):  # fmt: skip
    """Add an event to the windows of a stream that still reach it."""
    last = streams[s, S_WINDOW1] - 1
    if time <= as_of - windows[last, W_LENGTH]:
        return  # too late for the longest window: no window will ever see it
    record = _new_record(pool, header, free, s, streams[s, S_RECORD])
    pool[record + TIME] = time
    earlier = pool[block + NEWEST]
    later = np.int64(0)
    while earlier != 0 and pool[earlier + TIME] > time:
        later = earlier
        earlier = pool[earlier + PREVIOUS]
    pool[record + PREVIOUS] = earlier
    pool[record + NEXT] = later
    if earlier != 0:
        pool[earlier + NEXT] = record
    else:
        pool[block + OLDEST] = record
    if later != 0:
        pool[later + PREVIOUS] = record
    else:
        pool[block + NEWEST] = record

    # For each field: the time of the latest earlier record with the same value, in whose
    # windows a distinct count does not change.
    for f in range(streams[s, S_FIELD0], streams[s, S_FIELD1]):
        if fields[f, F_VALUE] == 0:
            continue  # this field has no window, only a life
        value = _steps(columns[fields[f, F_ROW], i], scales[f])
        pool[record + fields[f, F_VALUE]] = value
        if value == MISSING:
            continue
        if fields[f, F_MAX] != 0:
            _dominate(
                pool, record, time, value, np.int64(1), fields[f, F_VALUE], fields[f, F_MAX],
                block + fields[f, F_MAX_HEAD],
            )  # fmt: skip
        if fields[f, F_MIN] != 0:
            _dominate(
                pool, record, time, value, np.int64(-1), fields[f, F_VALUE], fields[f, F_MIN],
                block + fields[f, F_MIN_HEAD],
            )  # fmt: skip
        superseded = fields[f, F_SUPERSEDED]
        if superseded != 0:
            key = key_of(value, block + fields[f, F_VALUE])
            slot = slot_of(marks, key)
            same_until = MISSING
            if marks[slot, 0] == 0:
                header[NUM_MARKS] += 1
                marks[slot, 0] = key
                marks[slot, 1] = record
            else:
                twin = marks[slot, 1]
                same_until = pool[twin + TIME]
                if same_until <= time:
                    pool[twin + superseded] = 1
                    marks[slot, 1] = record
                else:
                    pool[record + superseded] = 1
            for w in range(streams[s, S_WINDOW0], streams[s, S_WINDOW1]):
                cut = as_of - windows[w, W_LENGTH]
                if time > cut and (same_until == MISSING or same_until <= cut):
                    for a in range(windows[w, W_ACC0], windows[w, W_ACC1]):
                        if accs[a, A_KIND] == ACC_DISTINCT and accs[a, A_FIELD] == f:
                            pool[block + accs[a, A_CELL]] += 1

    for w in range(streams[s, S_WINDOW0], streams[s, S_WINDOW1]):
        if time <= as_of - windows[w, W_LENGTH]:
            continue
        tail = block + windows[w, W_TAIL]
        if pool[tail] == 0 or pool[pool[tail] + TIME] > time:
            pool[tail] = record
        for a in range(windows[w, W_ACC0], windows[w, W_ACC1]):
            kind = accs[a, A_KIND]
            place = block + accs[a, A_CELL]
            f = accs[a, A_FIELD]
            if f < 0:
                pool[place] += 1
                continue
            value = pool[record + fields[f, F_VALUE]]
            if value == MISSING or kind == ACC_DISTINCT:
                continue
            if kind == ACC_MAX or kind == ACC_MIN:
                link = fields[f, F_MAX] if kind == ACC_MAX else fields[f, F_MIN]
                cursor = _resolve(pool, pool[place], link)
                if pool[record + link + 1] != DEAD and (cursor == 0 or pool[cursor + TIME] > time):
                    cursor = record
                pool[place] = cursor
            else:
                _accumulate(pool, place, kind, value, np.int64(1))


@njit(cache=True, error_model="numpy", inline="always")
def _resolve(pool, cursor, link):
    """Follow a dominated record to the one that stands for it now."""
    while cursor != 0 and pool[cursor + link + 1] == DEAD:
        cursor = pool[cursor + link]
    return cursor


@njit(cache=True, error_model="numpy", inline="always")
def _add_lifetime(pool, marks, header, streams, s, block, accs, fields, scales, columns, i, time):
    """Add an event to the accumulators that never forget."""
    for a in range(streams[s, S_LIFE0], streams[s, S_LIFE1]):
        kind = accs[a, A_KIND]
        place = block + accs[a, A_CELL]
        f = accs[a, A_FIELD]
        if kind == LIFE_FIRST:
            if pool[place] == 0 or time < pool[place + 1]:
                pool[place] = 1
                pool[place + 1] = time
            continue
        if f < 0:
            if kind == ACC_COUNT:
                pool[place] += 1
            elif pool[place] == 0 or time >= pool[place + 1]:
                pool[place] = 1
                pool[place + 1] = time
            continue
        value = _steps(columns[fields[f, F_ROW], i], scales[f])
        if kind == LIFE_LAST:
            if value != MISSING and (pool[place] == 0 or time >= pool[place + 1]):
                pool[place] = 1
                pool[place + 1] = time
                pool[place + 2] = value
            continue
        if value == MISSING:
            continue
        if kind == LIFE_MAX or kind == LIFE_MIN:
            sign = np.int64(1) if kind == LIFE_MAX else np.int64(-1)
            if pool[place] == 0 or sign * value > sign * pool[place + 1]:
                pool[place] = 1
                pool[place + 1] = value
        elif kind == ACC_DISTINCT:
            key = key_of(value, place)
            slot = slot_of(marks, key)
            if marks[slot, 0] == 0:
                marks[slot, 0] = key
                header[NUM_MARKS] += 1
                pool[place] += 1
        else:
            _accumulate(pool, place, kind, value, np.int64(1))


@njit(cache=True, error_model="numpy")
def _spread(pool, place, total, count):
    """Standard deviation of ``count`` values in steps, from their sum and their squares.

    Around the whole number m nearest to the mean, so that nothing large cancels: with
    x = 2**20 h + l and m = 2**20 p + q, the sum of (x - m)**2 has three parts, each an exact
    integer.
    """
    middle = np.int64(round(total / count))
    p = middle >> np.int64(20)
    q = middle & (HALF - np.int64(1))
    highs = pool[place + 3]
    lows = total - highs * HALF
    hh = pool[place] - 2 * p * highs + count * p * p
    hl = pool[place + 1] - q * highs - p * lows + count * p * q
    ll = pool[place + 2] - 2 * q * lows + count * q * q
    offset = (total - middle * count) / count
    variance = (hh * 1099511627776.0 + hl * 2097152.0 + ll) / count - offset * offset
    return math.sqrt(variance) if variance > 0.0 else 0.0


@njit(cache=True, error_model="numpy", inline="always")
def _read(pool, streams, s, block, outs, fields, scales, columns, i, as_of):
    """Write the values of a stream's features into their columns."""
    for o in range(streams[s, S_OUT0], streams[s, S_OUT1]):
        op = outs[o, O_OP]
        a = block + outs[o, O_A]
        f = outs[o, O_FIELD]
        scale = scales[f] if f >= 0 else 1.0
        value = np.nan
        if op == OUT_COUNT:
            value = float(pool[a])
        elif op == OUT_SUM:
            value = pool[a] / scale
        elif op == OUT_MEAN:
            count = pool[block + outs[o, O_B]]
            if count > 0:
                value = pool[a] / scale / count
        elif op == OUT_STD:
            count = pool[block + outs[o, O_B]]
            if count > 0:
                value = _spread(pool, block + outs[o, O_C], pool[a], count) / scale
        elif op == OUT_EXTREME:
            record = _resolve(pool, pool[a], outs[o, O_B])
            if record != 0:
                value = pool[record + fields[f, F_VALUE]] / scale
        elif op == OUT_LAST:
            if pool[a] != 0:
                last = pool[pool[block + NEWEST] + fields[f, F_VALUE]]
                if last != MISSING:
                    value = last / scale
        elif op == OUT_LIFE_EXTREME:
            if pool[a] != 0:
                value = pool[a + 1] / scale
        elif op == OUT_LIFE_LAST:
            if pool[a] != 0:
                value = pool[a + 2] / scale
        elif op == OUT_SECONDS_SINCE and pool[a] != 0:
            value = (as_of - pool[a + 1]) / 1e6
        columns[outs[o, O_ROW], i] = value


@njit(cache=True, error_model="numpy")
def advance(
    ranges, visits, reads, feeds, streams, windows, accs, fields, scales, outs, rates, pair_uses,
    pool, directory, marks, header, free, cells,
    types, happened_at, known_at, entities, columns, wanted, first, last,
):  # fmt: skip
    """Fold the events ``first`` to ``last - 1`` into the state, reading before adding.

    Parameters
    ----------
    ranges ... pair_uses
        The tables of a `Plan`.
    pool, directory, marks, header, free
        The state; the caller has made room (`features.fold.State.reserve`).
    cells : (max_visits,) int64
        Scratch space.
    types : (n,) int64
        Event types.
    happened_at, known_at : (n,) int64
        Microseconds; ``known_at`` never decreases along the log.
    entities : (num_entity_fields, n) int64
        Codes of the entities, 0 where the event names none.
    columns : (num_columns, n) float64
        Fields and conditions in, features out.
    wanted : (n,) uint8
        Whether to read the features of this event.
    """
    for i in range(first, last):
        event_type = types[i]
        as_of = known_at[i]
        time = min(happened_at[i], as_of)
        header[CLOCK] = max(header[CLOCK], as_of)
        first_visit = ranges[event_type, 0]
        last_visit = ranges[event_type, 1]
        for v in range(first_visit, last_visit):
            row = visits[v, V_ENTITY]
            code = entities[row, i] if row >= 0 else np.int64(1)
            cells[v - first_visit] = (
                find_cell(pool, directory, header, visits[v, V_KIND], code, visits[v, V_WIDTH])
                if code != 0
                else np.int64(0)
            )
        if wanted[i]:
            for v in range(first_visit, last_visit):
                cell = cells[v - first_visit]
                for r in range(visits[v, V_READ0], visits[v, V_READ1]):
                    s = reads[r]
                    if cell == 0:
                        for o in range(streams[s, S_OUT0], streams[s, S_OUT1]):
                            columns[outs[o, O_ROW], i] = np.nan
                        continue
                    block = cell + streams[s, S_CELL]
                    if streams[s, S_RECORD] > 0:
                        _expire(
                            pool, marks, header, free, streams, s, block, windows, accs, fields,
                            as_of,
                        )  # fmt: skip
                    _read(pool, streams, s, block, outs, fields, scales, columns, i, as_of)
        for v in range(first_visit, last_visit):
            cell = cells[v - first_visit]
            if cell == 0:
                continue
            for r in range(visits[v, V_FEED0], visits[v, V_FEED1]):
                condition = feeds[r, 1]
                if condition >= 0 and columns[condition, i] != 1.0:
                    continue
                s = feeds[r, 0]
                block = cell + streams[s, S_CELL]
                if streams[s, S_RECORD] > 0:
                    if not wanted[i]:  # else it was moved on when it was read
                        _expire(
                            pool, marks, header, free, streams, s, block, windows, accs, fields,
                            as_of,
                        )  # fmt: skip
                    _add_record(
                        pool, marks, header, free, streams, s, block, windows, accs, fields, scales,
                        columns, i, time, as_of,
                    )  # fmt: skip
                _add_lifetime(
                    pool, marks, header, streams, s, block, accs, fields, scales, columns, i, time
                )
        for use in range(ranges[event_type, 2], ranges[event_type, 3]):
            _use_pair(pool, marks, header, cells, rates, pair_uses[use], columns, i, as_of, wanted)


@njit(cache=True, error_model="numpy")
def _use_pair(pool, marks, header, cells, rates, use, columns, i, as_of, wanted):
    """Read a label rate (0), join a holder to an attribute (1), or label a holder (2)."""
    rate = rates[use[1]]
    attribute = cells[use[2]] if use[2] >= 0 else np.int64(0)
    holder = cells[use[3]] if use[3] >= 0 else np.int64(0)
    if use[0] == 0:
        if wanted[i]:
            columns[rate[P_ROW], i] = (
                rate_of(pool, attribute + rate[P_ATTRIBUTE_CELL], as_of - rate[P_DELAY])
                if attribute != 0
                else np.nan
            )
    elif use[4] >= 0 and columns[use[4], i] != 1.0:
        return
    elif use[0] == 1:
        if attribute != 0 and holder != 0:
            join(
                pool, marks, header, attribute + rate[P_ATTRIBUTE_CELL],
                holder + rate[P_HOLDER_CELL], as_of,
            )  # fmt: skip
    elif holder != 0:
        mark_bad(pool, holder + rate[P_HOLDER_CELL])
