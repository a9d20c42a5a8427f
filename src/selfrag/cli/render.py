"""What people see in a terminal: the answer, its passages, and the tree of a search."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

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
from selfrag.passage import Hit


def show_answer(console: Console, answer: Answer) -> None:
    """Answer with `[n]`, the cited passages with their sources, and a one-line verdict."""
    console.print(_headline(answer), style="bold")
    for number, hit in enumerate(answer.passages, start=1):
        if answer.citations and number not in answer.citations:
            continue  # read, and judged irrelevant
        passage = hit.passage
        title = escape(passage.title or passage.id)
        console.print(f"\n\\[{number}] [bold]{title}[/bold]  [dim]{escape(passage.source)}[/dim]")
        console.print(escape(_shorten(passage.text, 400)))
    console.print(f"\n[italic]{escape(answer.verdict)}[/italic]")
    if answer.stopped_by:
        console.print(f"[italic]stopped early: {answer.stopped_by} was reached[/italic]")


def _headline(answer: Answer) -> str:
    if answer.choices:
        sums = ", ".join(f"{choice} {score:.2f}" for choice, score in answer.choices.items())
        what = "no candidate named one; likelihood" if answer.choices_rated else "scores"
        return escape(f"{answer.text}  ({what}: {sums})")
    if answer.abstained:
        return "No passage supports an answer."
    return escape(answer.cited_text) or "(the model wrote nothing)"


def narrate(console: Console, events: Iterable[Event]) -> Iterator[Event]:
    """Passes `events` on and prints a line for each as it comes."""
    for event in events:
        if isinstance(event, GateEvent):
            console.print(escape(describe_gate(event.gate)), style="dim")
        elif isinstance(event, RetrievalEvent):
            line = f"searched {event.query!r}: {len(event.hits)} passages"
            console.print(escape(line), style="dim")
        elif isinstance(event, SkipEvent):
            console.print(escape(describe_skip(event)), style="dim")
        elif isinstance(event, CandidateEvent):
            console.print(_describe_node(event.node, {}).strip())
        elif isinstance(event, PruneEvent):
            console.print(f"[red]lost: {escape(event.node.text)}: {escape(event.reason)}[/red]")
        elif isinstance(event, KeepEvent):
            console.print(f"[green]kept, rank {event.rank}: {escape(event.node.text)}[/green]")
        yield event


def describe_skip(event: SkipEvent) -> str:
    """Which passage was not read on, and why."""
    return (
        f"skipped [{event.hit.rank}] {event.hit.passage.title}: relevance "
        f"{event.relevance:.2f} is under {event.bound:g}"
    )


def show_tree(console: Console, question: str, events: Sequence[Event]) -> None:
    """Every candidate with its passage and four scores, and why a branch was kept or lost."""
    tree = Tree(f"[bold]{escape(question)}[/bold]")
    fates = {event.node.id: event for event in events if isinstance(event, KeepEvent | PruneEvent)}
    branches: dict[int, Tree] = {}
    for event in events:
        if isinstance(event, GateEvent):
            tree.add(escape(describe_gate(event.gate)))
        elif isinstance(event, RetrievalEvent):
            place = branches.get(event.parent.id, tree)
            place.add(escape(f"searched {event.query!r}: {len(event.hits)} passages"), style="dim")
        elif isinstance(event, SkipEvent):
            place = branches.get(event.parent.id, tree)
            place.add(escape(describe_skip(event)), style="dim")
        elif isinstance(event, CandidateEvent):
            before = event.node.parent
            place = tree if before is None else branches.get(before.id, tree)
            branches[event.node.id] = place.add(_describe_node(event.node, fates))
    console.print(tree, soft_wrap=False)


def show_hits(console: Console, hits: Sequence[Hit]) -> None:
    """A ranked list of passages."""
    for hit in hits:
        passage = hit.passage
        console.print(
            f"{hit.rank}. [bold]{escape(passage.title or passage.id)}[/bold]  {hit.score:.4f}  "
            f"[dim]{escape(passage.source)}[/dim]"
        )
        console.print(f"   {escape(_shorten(passage.text, 240))}")


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


def _describe_node(node: Node, fates: dict[int, KeepEvent | PruneEvent]) -> str:
    assert node.segment is not None  # candidates are never roots
    read = ", ".join(f"[{hit.rank}] {hit.passage.title}" for hit in node.hits)
    passage = f"{escape(read)}: " if read else ""
    fate = fates.get(node.id)
    ending = "finished" if node.finished else "goes on"
    verdict = f"[green]kept, rank {fate.rank}, {ending}[/green]" if fate else ""
    if isinstance(fate, PruneEvent):
        verdict = f"[red]lost: {escape(fate.reason)}[/red]"
    critique = escape(" ".join(node.segment.critique))
    return (
        f"{passage}[bold]{escape(node.segment.text)}[/bold] [dim]{critique}[/dim]\n"
        f"{_describe_scores(node.segment.scores)}; path {node.path_score:.2f}\n{verdict}"
    )


def _describe_scores(scores: SegmentScores) -> str:
    parts = []
    for name in ("relevance", "support", "utility"):
        value = getattr(scores, name)
        parts.append(f"{name} {value:.2f}" if value is not None else f"{name} -")
    parts += [f"sequence {scores.sequence:.2f}", f"total {scores.total:.2f}"]
    line = ", ".join(parts)
    reasons = "; ".join(f"no {name}: {why}" for name, why in scores.missing.items())
    return f"{line} ({escape(reasons)})" if reasons else line


def _shorten(text: str, limit: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1].rsplit(" ", 1)[0] + "…"


def show_reference(console: Console, answer: ShortAnswer | LongAnswer) -> None:
    """The answer, what it was chosen from, and what the released code would have crashed on."""
    console.print(escape(answer.text) or "(nothing was written)", style="bold")
    for candidate in candidates_json(answer):
        facts = ", ".join(f"{k} {v:.3f}" if k == "score" else str(v) for k, v in candidate.items())
        console.print(escape(f"  {facts}"), style="dim")
    console.print("[italic]as the released scripts decide; see docs/compat.md[/italic]")
    if answer.crash is not None:
        console.print(escape(_crash_line(answer.crash)), style="yellow")


def _crash_line(crash: Crash) -> str:
    return f"the released code ends here with {crash.error} ({crash.cause}); {crash.instead}"
