"""What people see in a terminal: the answer, its passages, and the tree of a search.

Texts are put together as `rich.text.Text`, never as markup, so none of them is read as a style.
"""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from selfrag.cli.console import one_line, visible
from selfrag.compat.completer import Crash
from selfrag.compat.long import LongAnswer
from selfrag.compat.output import candidates_json
from selfrag.compat.short import ShortAnswer
from selfrag.decode.answer import Answer
from selfrag.decode.events import (
    CandidateEvent,
    Event,
    GateEvent,
    KeepEvent,
    PruneEvent,
    RetrievalEvent,
    SkipEvent,
)
from selfrag.decode.gate import Gate
from selfrag.decode.node import Node
from selfrag.decode.score import SegmentScores
from selfrag.decode.tree import Level, tree_of
from selfrag.passage import Hit, Passage
from selfrag.text import counted


def styled(*parts: str | tuple[str, str]) -> Text:
    """Texts one after the other, each as it is or with a style."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((visible(text), style) for text, style in pairs))


def show_answer(console: Console, answer: Answer) -> None:
    """Answer with `[n]`, the cited passages with their sources, and a one-line verdict."""
    console.print(styled((_headline(answer), "bold")))
    shown = {*answer.citations, *(n for claim in answer.conflict for n in claim.citations)}
    for number, hit in enumerate(answer.passages, start=1):
        if answer.citations and number not in shown:
            continue  # read, and judged irrelevant
        title, place = _named(hit.passage)
        console.print(styled(f"\n[{number}] ", (title, "bold"), "  ", (place, "dim")))
        console.print(styled(_shorten(hit.passage.text, 400)))
    console.print(styled("\n", (answer.verdict, "italic")))
    if answer.disagreement:
        console.print(styled((answer.disagreement, "yellow")))
    if answer.stopped_by:
        console.print(styled((f"stopped early: {answer.stopped_by} was reached", "italic")))


def _headline(answer: Answer) -> str:
    if answer.choices:
        sums = ", ".join(f"{choice} {score:.2f}" for choice, score in answer.choices.items())
        what = "no candidate named one; likelihood" if answer.choices_rated else "scores"
        return f"{answer.text}  ({what}: {sums})"
    if answer.abstained:
        asked = answer.min_probability is not None
        return "No answer is probable enough." if asked else "No passage supports an answer."
    return answer.cited_text or "(the model wrote nothing)"


def _named(passage: Passage) -> tuple[str, str]:
    """What a passage is called, and where it is: its source and pages."""
    place = ", ".join(part for part in (passage.source, pages_of(passage)) if part)
    return one_line(passage.title or passage.id), one_line(place)


def pages_of(passage: Passage) -> str:
    """`p. 3`, `pp. 3-4` for a passage that goes on to page 4, or nothing where there are none."""
    if not passage.page:
        return ""
    if passage.last_page > passage.page:
        return f"pp. {passage.page}-{passage.last_page}"
    return f"p. {passage.page}"


def narrate(console: Console, events: Iterable[Event]) -> Iterator[Event]:
    """Passes `events` on and prints a line for each as it comes."""
    for event in events:
        if isinstance(event, CandidateEvent):
            described = _describe_node(event.node)
            described.rstrip()
            console.print(described)
        elif isinstance(event, PruneEvent):
            console.print(styled((f"lost: {event.node.text}: {event.reason}", "red")))
        elif isinstance(event, KeepEvent):
            console.print(styled((f"kept, rank {event.rank}: {event.node.text}", "green")))
        elif told := _describe_step(event):
            console.print(styled((told, "dim")))
        yield event


def _describe_step(event: Event) -> str:
    """What a gate, a search or a skipped passage is told as; empty for other events."""
    if isinstance(event, GateEvent):
        return describe_gate(event.gate)
    if isinstance(event, RetrievalEvent):
        return f"searched {event.query!r}: {counted(len(event.hits), 'passage')}"
    if isinstance(event, SkipEvent):
        return (
            f"skipped [{event.hit.rank}] {event.hit.passage.title}: relevance "
            f"{event.relevance:.2f} is under {event.bound:g}"
        )
    return ""


def show_tree(console: Console, question: str, events: Sequence[Event]) -> None:
    """Every candidate with its passage and four scores, and why a branch was kept or lost."""
    tree = Tree(styled((question, "bold")))
    for event in events:
        if isinstance(event, GateEvent):
            tree.add(styled(_describe_step(event)))
    _grow(tree, tree_of(events))
    console.print(tree, soft_wrap=False)


def _grow(tree: Tree, level: Level) -> None:
    for step in level.steps:
        tree.add(styled((_describe_step(step), "dim")))
    for branch in level.branches:
        colour = "green" if isinstance(branch.fate, KeepEvent) else "red"
        told = _describe_node(branch.node) + styled((branch.verdict, colour))
        _grow(tree.add(told), branch.below)


def show_hits(console: Console, hits: Sequence[Hit]) -> None:
    """A ranked list of passages."""
    for hit in hits:
        title, place = _named(hit.passage)
        head = f"{hit.rank}. "
        console.print(styled(head, (title, "bold"), f"  {hit.score:.4f}  ", (place, "dim")))
        console.print(styled("   ", _shorten(hit.passage.text, 240)))


def describe_gate(gate: Gate) -> str:
    """The decision and what both formulas say."""
    word = "retrieve" if gate.retrieve else "answer without retrieval"
    threshold = "none" if gate.threshold is None else f"{gate.threshold:g}"
    other = [str(kind) for kind, said in gate.would.items() if said is not gate.retrieve]
    disagree = f"; {' and '.join(other)} would decide otherwise" if other else ""
    return (
        f"gate: {word} (paper {gate.paper:.3f}, reference {gate.reference:.3f}, "
        f"threshold {threshold}{disagree})"
    )


def _describe_node(node: Node) -> Text:
    assert node.segment is not None  # candidates are never roots
    read = ", ".join(f"[{hit.rank}] {hit.passage.title}" for hit in node.hits)
    return styled(
        f"{read}: " if read else "",
        (node.segment.text, "bold"),
        " ",
        (" ".join(node.segment.critique), "dim"),
        f"\n{_describe_scores(node.segment.scores)}; path {node.path_score:.2f}\n",
    )


def _describe_scores(scores: SegmentScores) -> str:
    parts = []
    for name in ("relevance", "support", "utility"):
        value = getattr(scores, name)
        parts.append(f"{name} {value:.2f}" if value is not None else f"{name} -")
    parts.append(f"sequence {scores.sequence:.2f}")
    if scores.retrieval is not None:
        parts.append(f"retrieval {scores.retrieval:.2f}")
    parts.append(f"total {scores.total:.2f}")
    line = ", ".join(parts)
    reasons = "; ".join(f"no {name}: {why}" for name, why in scores.missing.items())
    return f"{line} ({reasons})" if reasons else line


def _shorten(text: str, limit: int) -> str:
    flat = " ".join(visible(text).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rsplit(" ", 1)[0] + "…"


def show_reference(console: Console, answer: ShortAnswer | LongAnswer) -> None:
    """The answer, what it was chosen from, and what the released code would have crashed on."""
    console.print(styled((answer.text or "(nothing was written)", "bold")))
    for candidate in candidates_json(answer):
        facts = ", ".join(f"{k} {v:.3f}" if k == "score" else str(v) for k, v in candidate.items())
        console.print(styled((f"  {facts}", "dim")))
    console.print(styled(("as the released scripts decide; see docs/compat.md", "italic")))
    if answer.crash is not None:
        console.print(styled((_crash_line(answer.crash), "yellow")))


def _crash_line(crash: Crash) -> str:
    return f"the released code ends here with {crash.error} ({crash.cause}); {crash.instead}"
