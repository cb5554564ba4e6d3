"""Kernels that lay the rows of a graph: counting sorts, sums of pairs, merges, weights.

Edges are columns of ids, amounts and times; a column of length 0 is one that is not kept.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import numpy as np
from numba import njit

from chopmark.graph.alias import fill_row


@njit(cache=True, nogil=True, error_model="numpy")
def degrees(rows, columns, num_nodes, both):
    """(n,) int32: how many slots each row will have, those of one pair counted apart."""
    counts = np.zeros(num_nodes, dtype=np.int32)
    for i in range(rows.shape[0]):
        counts[rows[i]] += 1
        if both:
            counts[columns[i]] += 1
    return counts


@njit(cache=True, nogil=True, error_model="numpy")
def grouped(rows, columns, amounts, times, starts, both, table):
    """Slots (row, amount, time) by column into the table, in the order they came in.

    A slot is one short line of the table: written at random, it misses the cache once, not thrice.
    """
    has_amounts, has_times = amounts.shape[0] > 0, times.shape[0] > 0
    heads = starts.copy()
    for i in range(rows.shape[0]):
        for turn in range(2 if both else 1):
            row, column = (rows[i], columns[i]) if turn == 0 else (columns[i], rows[i])
            head = heads[column]
            heads[column] = head + 1
            table[head, 0] = row
            if has_amounts:
                table[head, 1] = amounts[i]
            if has_times:
                table[head, table.shape[1] - 1] = times[i]


@njit(cache=True, nogil=True, error_model="numpy")
def turned(by_column, column_starts, starts, table):
    """Slots by column into slots by row: columns come in order, so the slots of a pair meet."""
    num_nodes, width = starts.shape[0], table.shape[1]
    heads = starts.copy()
    for column in range(num_nodes):
        end = column_starts[column + 1] if column + 1 < num_nodes else by_column.shape[0]
        for i in range(column_starts[column], end):
            row = by_column[i, 0]
            head = heads[row]
            heads[row] = head + 1
            table[head, 0] = column
            for k in range(1, width):
                table[head, k] = by_column[i, k]


@njit(cache=True, nogil=True, error_model="numpy")
def joined(table, sums, counts, has_amounts, has_times):
    """Counts, neighbours, amounts and times of rows whose pairs are one slot each.

    sums is the table as float32; it is summed up in place.
    """
    _total, time = table.shape[0], table.shape[1] - 1
    num_pairs, i = 0, 0
    new_counts = np.zeros(counts.shape[0], dtype=np.int32)
    for row in range(counts.shape[0]):
        begin = num_pairs
        for _ in range(counts[row]):
            if num_pairs > begin and table[num_pairs - 1, 0] == table[i, 0]:
                if has_amounts:
                    sums[num_pairs - 1, 1] += sums[i, 1]
                if has_times and table[i, time] > table[num_pairs - 1, time]:
                    table[num_pairs - 1, time] = table[i, time]
            else:
                for k in range(table.shape[1]):
                    table[num_pairs, k] = table[i, k]
                num_pairs += 1
            i += 1
        new_counts[row] = num_pairs - begin
    neighbours = np.empty(num_pairs, dtype=np.int32)
    amounts = np.empty(num_pairs if has_amounts else 0, dtype=np.float32)
    times = np.empty(num_pairs if has_times else 0, dtype=np.int32)
    for i in range(num_pairs):
        neighbours[i] = table[i, 0]
        if has_amounts:
            amounts[i] = sums[i, 1]
        if has_times:
            times[i] = table[i, time]
    return new_counts, neighbours, amounts, times


@njit(cache=True, nogil=True, error_model="numpy")
def laid_by_time(rows, columns, amounts, times, starts, both):
    """Rows of every transfer, for transfers in order of time."""
    total = rows.shape[0] * (2 if both else 1)
    has_amounts = amounts.shape[0] > 0
    neighbours = np.empty(total, dtype=np.int32)
    out_amounts = np.empty(total if has_amounts else 0, dtype=np.float32)
    out_times = np.empty(total, dtype=np.int32)
    heads = starts.copy()
    for i in range(rows.shape[0]):
        for turn in range(2 if both else 1):
            row, column = (rows[i], columns[i]) if turn == 0 else (columns[i], rows[i])
            head = heads[row]
            heads[row] = head + 1
            neighbours[head] = column
            out_times[head] = times[i]
            if has_amounts:
                out_amounts[head] = amounts[i]
    return neighbours, out_amounts, out_times


@njit(cache=True, nogil=True, error_model="numpy")
def sort_ties(starts, counts, neighbours, amounts, times):
    """Sort slots of equal time by neighbour, in place: stable insertion, as ties are few."""
    for row in range(starts.shape[0]):
        for i in range(starts[row] + 1, starts[row] + counts[row]):
            place = i
            while (
                place > starts[row]
                and times[place - 1] == times[place]
                and neighbours[place - 1] > neighbours[place]
            ):
                other = neighbours[place]
                neighbours[place] = neighbours[place - 1]
                neighbours[place - 1] = other
                if amounts.shape[0] > 0:
                    amount = amounts[place]
                    amounts[place] = amounts[place - 1]
                    amounts[place - 1] = amount
                place -= 1


@njit(cache=True, nogil=True, error_model="numpy")
def weigh(starts, counts, values, times, half_life, threshold, alias):
    """Alias tables of all rows; running shares where there is no space for aliases."""
    most = 0
    for row in range(counts.shape[0]):
        most = max(most, counts[row])
    weights = np.empty(most)
    small = np.empty(most, dtype=np.int32)
    large = np.empty(most, dtype=np.int32)
    for row in range(counts.shape[0]):
        start, count = starts[row], counts[row]
        newest = np.int64(-(2**31))
        if half_life > 0.0:
            for i in range(count):
                newest = max(newest, np.int64(times[start + i]))
        for i in range(count):
            weight = np.float64(values[start + i])
            if half_life > 0.0:
                # Against the row's newest: another row's news cannot change these shares.
                weight *= 2.0 ** ((np.int64(times[start + i]) - newest) / half_life)
            weights[i] = weight
        if alias.shape[0] > 0:
            fill_row(weights[:count], threshold, alias, start, small, large)
        else:
            _fill_shares(weights[:count], threshold, start)


@njit(cache=True, error_model="numpy")
def _fill_shares(weights, threshold, start):
    count = weights.shape[0]
    total = 0.0
    for i in range(count):
        total += weights[i]
    so_far = 0.0
    for i in range(count):
        so_far += weights[i] / total if total > 0.0 else 1.0 / count
        threshold[start + i] = so_far
    if count > 0:
        threshold[start + count - 1] = 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def gathered(array, starts, counts, firsts, out):
    """Rows copied to where `firsts` says."""
    for row in range(starts.shape[0]):
        start, first = starts[row], firsts[row]
        for i in range(counts[row]):
            out[first + i] = array[start + i]
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def merged(
    changed, starts, counts, neighbours, amounts, times, firsts, columns, new_amounts, new_times,
    drops, by_time,
):  # fmt: skip
    """New rows of the changed nodes, one behind the other.

    Both sides are sorted. A drop stands before what comes at the same place: it takes the old
    pair out, or one old transfer if by time. Returns counts, the first new entry that drops what
    is not there or -1, neighbours, amounts, times.
    """
    has_amounts, has_times = new_amounts.shape[0] > 0, new_times.shape[0] > 0
    total = columns.shape[0]
    for place in range(changed.shape[0]):
        total += counts[changed[place]]
    out_counts = np.zeros(changed.shape[0], dtype=np.int32)
    out = np.empty(total, dtype=np.int32)
    out_amounts = np.empty(total if has_amounts else 0, dtype=np.float32)
    out_times = np.empty(total if has_times else 0, dtype=np.int32)
    missing = np.int64(-1)
    head = 0
    for place in range(changed.shape[0]):
        row = changed[place]
        begin = head
        old, old_end = starts[row], starts[row] + counts[row]
        new, new_end = firsts[place], firsts[place + 1]
        while old < old_end or new < new_end:
            turn = 0  # -1: the old one is next; 1: the new one; 0: they meet
            if new == new_end:
                turn = -1
            elif old == old_end:
                turn = 1
            else:
                if by_time and times[old] != new_times[new]:
                    turn = -1 if times[old] < new_times[new] else 1
                elif neighbours[old] != columns[new]:
                    turn = -1 if neighbours[old] < columns[new] else 1
            if turn == 1 and drops[new]:
                if missing < 0:
                    missing = new
                new += 1
                continue
            if turn == 0 and drops[new]:
                old += 1
                new += 1
                continue
            if turn <= 0:
                out[head] = neighbours[old]
                if has_amounts:
                    out_amounts[head] = amounts[old]
                if has_times:
                    out_times[head] = times[old]
                old += 1
                head += 1
                continue
            if not by_time and head > begin and out[head - 1] == columns[new]:
                if has_amounts:
                    out_amounts[head - 1] += new_amounts[new]
                if has_times and new_times[new] > out_times[head - 1]:
                    out_times[head - 1] = new_times[new]
            else:
                out[head] = columns[new]
                if has_amounts:
                    out_amounts[head] = new_amounts[new]
                if has_times:
                    out_times[head] = new_times[new]
                head += 1
            new += 1
        out_counts[place] = head - begin
    return (
        out_counts, missing, out[:head], out_amounts[: head if has_amounts else 0],
        out_times[: head if has_times else 0],
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def num_wild(starts, counts, neighbours, alias):
    """How many slots point out of the graph or out of their row."""
    found = 0
    for row in range(starts.shape[0]):
        for i in range(starts[row], starts[row] + counts[row]):
            wild = neighbours[i] < 0 or neighbours[i] >= starts.shape[0]
            if alias.shape[0] > 0:
                wild = wild or alias[i] < 0 or alias[i] >= counts[row]
            if wild:
                found += 1
    return found
