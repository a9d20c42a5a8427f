"""States of what a model has read, by token ids: nothing that is kept is read twice.

A radix tree, as in SGLang's RadixAttention (arXiv 2312.07104, section 3): every node holds the
state of a run of positions, and the path from the root is the text that they were read after.
Generic over that state (keys and values of numpy or torch, or a mere count). Knows nothing of
models, requests or batches.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

S = TypeVar("S")


class Spans(Protocol[S]):
    """How to handle states of consecutive positions."""

    def cut(self, span: S, start: int, stop: int) -> S:
        """A copy of the positions from `start` to `stop`, that keeps no other memory alive."""
        ...

    def n_bytes(self, span: S) -> int:
        """The memory that a span holds."""
        ...


@dataclass(frozen=True, slots=True)
class Known(Generic[S]):
    """The states of the first `n` ids of a prompt, as consecutive spans."""

    n: int = 0
    spans: tuple[S, ...] = ()

    def then(self, span: S, n: int) -> "Known[S]":
        """The same, followed by a span of `n` positions."""
        return Known(self.n + n, (*self.spans, span))


@dataclass(slots=True, eq=False)
class _Node(Generic[S]):
    """A run of ids after those of `parent`, and its state; the root has neither."""

    ids: tuple[int, ...] = ()
    span: S | None = None
    parent: "_Node[S] | None" = None
    children: dict[int, "_Node[S]"] = field(default_factory=dict)  # by their first id


class PrefixCache(Generic[S]):
    """Keeps the most recently used states within `max_bytes`; 0 keeps none."""

    def __init__(self, spans: Spans[S], *, max_bytes: int) -> None:
        self._spans = spans
        self._max_bytes = max_bytes
        self._root: _Node[S] = _Node()
        # Least recently used first. A parent is always used after its children, so the first node
        # is a leaf and can go without taking others along.
        self._nodes: OrderedDict[_Node[S], int] = OrderedDict()  # with its size in bytes
        self._n_bytes = 0

    @property
    def n_bytes(self) -> int:
        """The memory that is held now."""
        return self._n_bytes

    def find(self, ids: Sequence[int]) -> Known[S]:
        """The longest beginning of `ids` that is held, which becomes the most recently used."""
        path = self._descend(tuple(ids))
        self._touch(path)
        spans = tuple(node.span for node in path if node.span is not None)
        return Known(sum(len(node.ids) for node in path), spans)

    def add(self, ids: Sequence[int], span_of: Callable[[int, int], S]) -> None:
        """Keeps the state of `ids`; `span_of(start, stop)` copies what is not held yet.

        The least recently used states go until the rest fits.
        """
        if not self._max_bytes:
            return
        ids = tuple(ids)
        path = self._descend(ids)
        n_held = sum(len(node.ids) for node in path)
        if n_held < len(ids):
            parent = path[-1] if path else self._root
            path.append(self._insert(parent, ids[n_held:], span_of(n_held, len(ids))))
        self._touch(path)
        while self._n_bytes > self._max_bytes:
            oldest, n_bytes = self._nodes.popitem(last=False)
            self._n_bytes -= n_bytes
            if oldest.parent is not None:
                del oldest.parent.children[oldest.ids[0]]

    def clear(self) -> None:
        """Forgets everything; states are let go at once, though nodes point to each other."""
        for node in self._nodes:
            node.span = None
        self._root = _Node()
        self._nodes.clear()
        self._n_bytes = 0

    def _descend(self, ids: tuple[int, ...]) -> list[_Node[S]]:
        """The nodes that spell the longest beginning of `ids`; the last is split where it ends."""
        path: list[_Node[S]] = []
        node, n = self._root, 0
        while n < len(ids) and ids[n] in node.children:
            child = node.children[ids[n]]
            n_common = common_length(child.ids, ids[n : n + len(child.ids)])
            if n_common < len(child.ids):
                path.append(self._split(child, n_common))
                break
            path.append(child)
            node, n = child, n + n_common
        return path

    def _split(self, node: _Node[S], n: int) -> _Node[S]:
        """A new node with the first `n` ids of `node`, which keeps the others below it."""
        ids, span, parent = node.ids, node.span, node.parent
        if span is None or parent is None:
            raise ValueError("cannot split the root of a prefix cache")
        upper = self._insert(parent, ids[:n], self._spans.cut(span, 0, n))
        node.ids, node.span, node.parent = ids[n:], self._spans.cut(span, n, len(ids)), upper
        upper.children[node.ids[0]] = node
        self._n_bytes -= self._nodes[node]
        self._nodes[node] = self._spans.n_bytes(node.span)
        self._n_bytes += self._nodes[node]
        return upper

    def _insert(self, parent: _Node[S], ids: tuple[int, ...], span: S) -> _Node[S]:
        node = _Node(ids, span, parent)
        parent.children[ids[0]] = node
        self._nodes[node] = self._spans.n_bytes(span)
        self._n_bytes += self._nodes[node]
        return node

    def _touch(self, path: Sequence[_Node[S]]) -> None:
        for node in reversed(path):
            self._nodes.move_to_end(node)


def common_length(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many first ids are equal; by bisection, as tuples compare at the speed of C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
