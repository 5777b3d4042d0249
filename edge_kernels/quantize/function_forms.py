"""Functions of one number that are made of several nodes."""

from __future__ import annotations

from collections.abc import Iterator

from edge_kernels.quantize.functions import NO_VALUES, Function, Operation, bends, operation
from edge_kernels.quantize.graph import Graph
from edge_kernels.quantize.observed import Form, Observed


def functions(graph: Graph, observed: Observed, skip: frozenset[int] | set[int]) -> Iterator[Form]:
    """Element-wise nodes that depend on one tensor alone, where one of them bends it."""
    root: dict[str, str] = {}
    made: dict[str, tuple[int, Operation]] = {}
    for at, node in enumerate(graph.nodes):
        op = None if at in skip else operation(graph, node)
        if op is None:
            continue
        roots = {root.get(name, name) for name in op.reads}
        known = all(name in observed.shapes[0] for name in (*roots, node.output[0]))
        if len(roots) != 1 or not known:
            continue
        (source,) = roots
        if observed.concrete(source) == observed.concrete(node.output[0]):
            root[node.output[0]] = source
            made[node.output[0]] = at, op
    inside = {at for at, _ in made.values()}
    for output, source in root.items():
        readers = graph.readers.get(output, [])
        ends = graph.uses[output] > len(readers) or any(each not in inside for each in readers)
        nodes, operations = _needed(made, output)
        if ends and any(map(bends, operations)):
            step = Function(0, NO_VALUES, source, tuple(operations))
            yield Form(output, (source,), frozenset(nodes), step)


def _needed(
    made: dict[str, tuple[int, Operation]], output: str
) -> tuple[list[int], list[Operation]]:
    """The nodes that make an output, in order."""
    wanted, found = [output], {}
    while wanted:
        name = wanted.pop()
        if name in made and made[name][0] not in found:
            found[made[name][0]] = made[name][1]
            wanted.extend(made[name][1].reads)
    order = sorted(found)
    return order, [found[at] for at in order]
