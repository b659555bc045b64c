"""What the way back of a cell reads of the way there: the fewest values that make all it needs.

The way back has the states that entered and left (but for the new h, and with zoneout all new
ones), and the values of the unit.
Every other value that its gradients are made of must follow from what is kept. That is a cut
between the gates and those values, the smallest by the flow of Ford and Fulkerson, and of the
smallest the one nearest to the gradients, where least is computed again. Where even that would be
more than :data:`MOST_AGAIN` of the cell's arithmetic, more is kept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .derivative import Gradients
from .expression import MASKS, Node, cost
from .tracing import Equations

__all__ = ["MOST_AGAIN", "Kept", "choose_kept"]

#: What may be computed again, as a part of the arithmetic of the way there.
MOST_AGAIN = 0.5

# A value's capacity in the flow. One that only the way back has use for must be computed on the way
# there first: it is taken where it saves another.
_KEPT, _KEPT_AND_COMPUTED = 1000, 1001
_NEVER = 10**9

Place = tuple[object, ...]  # a node of the flow: the source, the sink, a node's entry or exit
Capacity = dict[Place, dict[Place, int]]


@dataclass(frozen=True)
class Kept:
    """Values that the way there keeps, and what of it the way back computes again."""

    nodes: tuple[Node, ...]
    again: tuple[Node, ...]
    given: tuple[Node, ...]  # new states that the way back has without their being kept


def choose_kept(equations: Equations, gradients: Gradients, has_new_states: bool = True) -> Kept:
    graph, results = equations.graph, equations.results
    there = set(graph.reachable(list(results)))
    back = graph.reachable(list(gradients.values()))
    carries: set[Node] = set()  # depends on a gradient
    for node in back:
        if node.operation == "d" or any(n in carries for n in node.inputs):
            carries.add(node)
    needed = {n for node in carries for n in node.inputs if n not in carries}
    needed |= {n for n in gradients.values() if n not in carries}
    free = {n for n in graph.nodes if n.operation in ("state", "u", "constant", "d")}
    given = results[1:] if has_new_states else ()  # states beside h are there as they left
    free |= set(given)
    kept = _smallest_cut(graph.reachable(list(needed)), needed, free, there)
    limit = MOST_AGAIN * sum(map(cost, there))
    while True:
        again = _computed_again(needed, kept | free)
        spent = sum(cost(n) for n in again if n in there)
        best = max(
            (n for n in again if n in there and n.operation not in MASKS),
            key=lambda n: spent - _spent(needed, kept | free | {n}, there),
            default=None,
        )
        if spent <= limit or best is None:
            break
        kept = _still_read(needed, kept | {best}, free)
    ordered = sorted(kept, key=lambda n: (n is not results[0], n.number))
    return Kept(tuple(ordered), tuple(sorted(again, key=lambda n: n.number)), tuple(given))


def _spent(needed: set[Node], known: set[Node], there: set[Node]) -> int:
    return sum(cost(n) for n in _computed_again(needed, known) if n in there)


def _computed_again(needed: set[Node], known: set[Node]) -> set[Node]:
    found: set[Node] = set()
    waiting = [n for n in needed if n not in known]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(n for n in node.inputs if n not in known)
    return found


def _still_read(needed: set[Node], kept: set[Node], free: set[Node]) -> set[Node]:
    """Those that are read when all of them are there."""
    known = kept | free
    again = _computed_again(needed, known)
    read = {n for node in again for n in node.inputs} | needed
    return kept & read


def _smallest_cut(
    order: list[Node], needed: set[Node], free: set[Node], there: set[Node]
) -> set[Node]:
    """The nodes of the smallest cut that is nearest to `needed`. Each node is two of the flow's,
    its entry and its exit, with the capacity between them."""
    source, sink = ("source",), ("sink",)
    capacity: Capacity = {source: {}, sink: {}}

    def join(a: Place, b: Place, most: int) -> None:
        capacity.setdefault(a, {})[b] = most
        capacity.setdefault(b, {}).setdefault(a, 0)

    for node in order:
        if node in free:
            continue
        entry, leaving = ("in", node), ("out", node)
        price = _KEPT if node in there else _KEPT_AND_COMPUTED
        join(entry, leaving, _NEVER if node.operation in MASKS else price)
        if node.is_leaf:
            join(source, entry, _NEVER)
        for inner in node.inputs:
            if inner not in free:
                join(("out", inner), entry, _NEVER)
        if node in needed:
            join(leaving, sink, _NEVER)
    while path := _path(capacity, source, sink):
        flow = min(capacity[a][b] for a, b in path)
        for a, b in path:
            capacity[a][b] -= flow
            capacity[b][a] += flow
    behind = _reaching(capacity, sink)
    return {
        n for n in order
        if n not in free and ("out", n) in behind and ("in", n) not in behind
    }  # fmt: skip


def _path(capacity: Capacity, source: Place, sink: Place) -> list[tuple[Place, Place]]:
    came: dict[Place, Place] = {source: source}
    waiting = deque([source])
    while waiting:
        at = waiting.popleft()
        for to, left in capacity[at].items():
            if left > 0 and to not in came:
                came[to] = at
                waiting.append(to)
    if sink not in came:
        return []
    path, at = [], sink
    while at != source:
        path.append((came[at], at))
        at = came[at]
    return path


def _reaching(capacity: Capacity, sink: Place) -> set[Place]:
    """From where the sink can still be reached."""
    found, waiting = {sink}, deque([sink])
    while waiting:
        at = waiting.popleft()
        for before in capacity[at]:
            if capacity[before][at] > 0 and before not in found:
                found.add(before)
                waiting.append(before)
    return found
