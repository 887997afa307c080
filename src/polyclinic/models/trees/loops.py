"""The compiled loops over rows. Imported where numba is installed only; see kernels.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from polyclinic.models.trees.kernels import COUNT, MOST_ROWS, jit

NEAR_ROWS = 512  # whose values and places stay near while they are searched
AHEAD = 24  # rows whose bins memory is asked for before they are needed
_ONE = np.uint64(1)
_intrinsic: Callable[[Callable[..., Any]], Any] = intrinsic


def _at(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


@_intrinsic
def _add_pair(typing: Any, flat: Any, place: Any, first: Any, second: Any) -> Any:
    """flat[place] += first; flat[place + 1] += second, as one addition of two numbers."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pair, index = ir.VectorType(ir.IntType(64), 2), ir.IntType(32)
        more = ir.Constant(pair, ir.Undefined)
        for i in range(2):
            more = builder.insert_element(more, args[2 + i], ir.Constant(index, i))
        where = _at(context, builder, signature.args[0], args[0], args[1])
        where = builder.bitcast(where, pair.as_pointer())
        found = builder.load(where, align=8)
        builder.store(builder.add(found, more), where, align=8)
        return context.get_dummy_value()

    return types.void(flat, place, first, second), generate


@_intrinsic
def _fetch(typing: Any, flat: Any, place: Any) -> Any:
    """Ask memory for flat[place], which is read soon."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        where = _at(context, builder, signature.args[0], args[0], args[1])
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        how = [ir.Constant(number, value) for value in (0, 3, 1)]  # to read, to all caches, data
        builder.call(call, [builder.bitcast(where, byte), *how])
        return context.get_dummy_value()

    return types.void(flat, place), generate


@jit
def _add_two(bins: Any, order: Any, lanes: Any, columns: Any, out: Any) -> None:
    """Two lanes. Unsigned places need no check for negative ones; six columns at a time are a loop
    that the compiler unrolls."""
    two, width = np.uint64(2), np.uint64(bins.shape[1])
    table, flat, pairs = bins.reshape(-1), out.reshape(-1), lanes.reshape(-1)
    n_lines, size = len(columns), np.uint64(2 * out.shape[1])
    at = columns.astype(np.uint64)
    straight = n_lines == bins.shape[1]  # all columns, in their order
    sixes, last = n_lines // 6 if straight else 0, len(order) - 1
    for i in range(len(order)):
        ahead = np.uint64(order[min(i + AHEAD, last)])
        _fetch(table, ahead * width)
        _fetch(table, ahead * width + width - _ONE)
        _fetch(pairs, ahead * two)
        row = np.uint64(order[i])
        first, second = pairs[row * two], pairs[row * two + _ONE]
        base, line = row * width, np.uint64(0)
        for six in range(sixes):
            for j in range(6):
                place = line + (np.uint64(table[base + np.uint64(6 * six + j)]) << _ONE)
                _add_pair(flat, place, first, second)
                line += size
        for j in range(6 * sixes, n_lines):
            place = line + (np.uint64(table[base + at[j]]) << _ONE)
            _add_pair(flat, place, first, second)
            line += size


@jit
def _add_many(bins: Any, order: Any, lanes: Any, columns: Any, out: Any) -> None:
    n_lines, n_lanes = len(columns), lanes.shape[1]
    for i in range(len(order)):
        row = order[i]
        for j in range(n_lines):
            b = bins[row, columns[j]]
            for lane in range(n_lanes):
                out[j, b, lane] += lanes[row, lane]


@jit
def add_lines(bins: Any, order: Any, lanes: Any, columns: Any, out: Any) -> None:
    """See `kernels.add_lines`."""
    if lanes.shape[1] == 2:
        _add_two(bins, order, lanes, columns, out)
    else:
        _add_many(bins, order, lanes, columns, out)


@jit
def add_nodes(
    bins: Any, order: Any, begin: Any, stop: Any, lanes: Any, columns: Any, at: Any,
    g: Any, h: Any, n: Any,
) -> None:  # fmt: skip
    """See `kernels.add_nodes`."""
    n_lines, n_bins, width = g.shape[1:]
    packed = np.empty((n_lines, n_bins, width + 1), np.int64)
    for k in range(len(at)):
        node = at[k]
        for start in range(begin[k], stop[k], MOST_ROWS):
            packed[:] = 0
            part = order[start : min(start + MOST_ROWS, stop[k])]
            add_lines(bins, part, lanes, columns[node], packed)
            for j in range(n_lines):
                for b in range(n_bins):
                    for lane in range(width):
                        g[node, j, b, lane] += packed[j, b, lane]
                    last = packed[j, b, width]
                    h[node, j, b] += last & ((1 << COUNT) - 1)
                    n[node, j, b] += last >> COUNT


@jit
def to_lanes(first: Any, second: Any, weight: Any, scales: Any, most: Any, out: Any) -> None:
    """See `kernels.to_lanes`."""
    width = first.shape[1]
    for i in range(len(first)):
        scale = weight[i] * scales[0]
        for lane in range(width):
            found = first[i, lane] * scale
            out[i, lane] = np.int64(np.rint(min(max(found, -most[0]), most[0])))
        found = second[i] * (weight[i] * scales[1])
        out[i, width] = np.int64(np.rint(min(max(found, 0.0), most[1]))) + (1 << COUNT)


@jit
def add_values(margin: Any, order: Any, begin: Any, stop: Any, values: Any) -> None:
    """See `kernels.add_values`."""
    for leaf in range(len(begin)):
        for i in range(begin[leaf], stop[leaf]):
            for lane in range(values.shape[1]):
                margin[order[i], lane] += values[leaf, lane]


@jit
def divide(column: Any, order: Any, left: Any, buffer: Any) -> Any:
    """See `kernels.divide`. Each row is written to both sides, and counted on one: a processor
    cannot guess which."""
    n_left, n_right = np.int64(0), np.int64(0)
    for i in range(len(order)):
        row = order[i]
        goes = np.int64(left[column[row]])
        order[n_left] = row
        buffer[n_right] = row
        n_left += goes
        n_right += 1 - goes
    order[n_left:] = buffer[:n_right]
    return n_left


@jit
def place(x: Any, edges: Any, out: Any) -> None:
    """How many edges are no larger than each value, rounded to float32: one step of all searches
    after the other, which no processor has to guess."""
    many, left = len(x), len(edges)
    values, base = np.empty(many, np.float32), np.zeros(many, np.uint32)
    for i in range(many):
        values[i] = x[i]
    while left > 0:
        half = (left + 1) >> 1
        step, before = np.uint32(half), np.uint32(half - 1)
        for i in range(many):
            base[i] += step if edges[base[i] + before] <= values[i] else np.uint32(0)
        left = left - half if left > 1 else 0
    for i in range(many):
        out[i] = base[i]


@jit
def place_rows(  # noqa: C901 - one compiled loop
    x: Any, edges: Any, fine: Any, missing: Any, out: Any, across: Any, gone: Any
) -> None:
    """`place` of all columns, by row and by column; NaN are `missing`, and are counted in `gone`.

    edges: of each column, (n_columns, at least 16 fine), NaN from the last one on; fine
    (n_columns,): a power of two, of which 16 are more than a column's edges. The upper steps
    compare all values with the same few edges.
    """
    n, p = x.shape
    values, base = np.empty(NEAR_ROWS, np.float32), np.empty(NEAR_ROWS, np.uint32)
    for start in range(0, n, NEAR_ROWS):
        here = min(NEAR_ROWS, n - start)
        for j in range(p):
            mine, half = edges[j], fine[j]
            for i in range(here):
                values[i] = x[start + i, j]
                base[i] = 0
            for at in range(15):
                edge, step = mine[(at + 1) * half - 1], np.uint32(half)
                for i in range(here):
                    base[i] += step if edge <= values[i] else np.uint32(0)
            while half > 1:
                half >>= 1
                step, before = np.uint32(half), np.uint32(half - 1)
                for i in range(here):
                    base[i] += step if mine[base[i] + before] <= values[i] else np.uint32(0)
            for i in range(here):
                if values[i] != values[i]:
                    base[i] = missing
                    gone[j] += 1
            for i in range(here):
                out[start + i, j] = base[i]
                across[j, start + i] = base[i]
