"""What people see of a checked text in a terminal."""

from rich.console import Console

from selfrag.cli.render import styled
from selfrag.decode.checked import (
    Check,
    CitationStatus,
    SentenceCheck,
    notes_of,
    summary_of,
    used_passages,
)
from selfrag.decode.grounding import Verdict
from selfrag.text import counted

_STYLES = {
    Verdict.SUPPORTED: "green",
    Verdict.PARTIAL: "yellow",
    Verdict.UNSUPPORTED: "red",
    Verdict.CONTRADICTED: "bold red",
}


def show_check(console: Console, check: Check) -> None:
    """Every sentence with its verdict and evidence, the passages named, and a summary."""
    for sentence in check.sentences:
        _show_sentence(console, sentence)
    for each in used_passages(check):
        first = each.pieces[0] if each.pieces else None
        places = filter(None, [first.title, first.source]) if first else ("no text",)
        console.print(styled((f"[{each.number}] {', '.join(places)}", "dim")))
    console.print(styled("\n", (_in_words(check), "bold")))
    for note in notes_of(check):
        console.print(styled((f"note: {note}", "italic")))


def _show_sentence(console: Console, each: SentenceCheck) -> None:
    style = _STYLES.get(each.verdict, "dim")
    console.print(styled((each.sentence.text, "" if each.probability is not None else "dim")))
    said = f"  {each.verdict}"
    if each.probability is not None:
        said += f" ({each.probability:.2f})"
    reason = f": {each.reason}" if each.reason else ""
    console.print(styled((said, style), reason))
    if each.evidence and each.verdict is not Verdict.UNSUPPORTED:
        passage = each.evidence[0].passage
        start, end = each.span or (0, 0)
        how = "word for word in" if each.is_quote else "see"
        quoted = f': "{" ".join(passage.text[start:end].split())}"' if end > start else ""
        console.print(styled((f"  {how} [{each.best}]{quoted}", "dim")))
    if each.disagreeing:
        numbers = "".join(f"[{number}]" for number in each.disagreeing)
        console.print(styled((f"  says otherwise: {numbers}", "red")))
    for one in each.citations:
        if one.status is not CitationStatus.RIGHT:
            console.print(styled((f"  cites [{one.number}]: {one.status}", "yellow")))
    console.print()


def _in_words(check: Check) -> str:
    """The summary in one line."""
    found = summary_of(check)
    if not found["claims"]:
        return "No sentence claims anything that can be checked."
    counts = ", ".join(f"{n} {name}" for name, n in found["verdicts"].items() if n)
    cited = ", ".join(f"{n} {name}" for name, n in found["citations"].items())
    apart = ", ".join(f"{n} {name}" for name, n in found["kept_apart"].items())
    claims = counted(found["claims"], "claim")
    said = f"{found['supported_share']:.0%} of {claims} supported ({counts})"
    said += f"; citations: {cited}" if cited else ""
    return said + (f"; kept apart: {apart}" if apart else "") + "."
