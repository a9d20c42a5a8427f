"""Draws docs/images/*.svg, the diagrams of the concepts page, from the code's own constants.

    python tools/make_diagrams.py

Tokens, formulas, weights and limits come from `selfrag`, so that a drawing cannot say another
thing than the code. Knows nothing of the text around them.
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np

from selfrag.decode.config import SearchConfig
from selfrag.decode.score import (
    ScoreWeights,
    relevance_score,
    support_score,
    utility_score,
)
from selfrag.reflection import Marker, Relevance, Retrieve, Support, Utility

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 720
TIMES = "\N{MULTIPLICATION SIGN}"
BLUE, GREEN, GREY, RED, AMBER = "#dbe9fb", "#d9f2df", "#eeeeee", "#fbdedb", "#fdf0cf"
GROUPS = (
    (Retrieve, "does the next segment need a passage?", BLUE),
    (Relevance, "does the passage help?", AMBER),
    (Marker, "where does a passage begin and end?", GREY),
    (Support, "does the passage support the segment?", GREEN),
    (Utility, "how useful is the answer, 1 to 5?", RED),
)


def diagrams() -> dict[Path, str]:
    """Every drawing by its path: what `main` writes and the test compares with."""
    drawn = {
        "tokens": (300, _tokens(), "The 15 reflection tokens in their five groups"),
        "gate": (190, _gate(), "The gate compares two probabilities after the question"),
        "critique": (170, _critique(), "What one segment is made of, and who writes each part"),
        "scores": (270, _scores(), "Probabilities of each group become scores, and a weighted sum"),
        "search": (330, _search(), "A beam search over segments"),
    }
    return {
        IMAGES / f"{name}.svg": _svg(height, "".join(parts), title)
        for name, (height, parts, title) in drawn.items()
    }


def main() -> None:
    """Writes all drawings."""
    for path, text in diagrams().items():
        path.write_text(text, encoding="utf-8")


def _tokens() -> Iterator[str]:
    for row, (group, question, colour) in enumerate(GROUPS):
        y = 14 + row * 56
        name = str(group.__doc__).partition(":")[0] if group is not Marker else "markers"
        yield _text(16, y + 14, f"{name}: {question}", bold=True)
        x = 16.0
        for token in group:
            width = 18 + 7.2 * len(token)
            yield _box(x, y + 22, width, 24, token, colour)
            x += width + 8


def _gate() -> Iterator[str]:
    config, (yes, no) = SearchConfig(), (0.62, 0.05)
    share = yes / (yes + no)
    yield _box(16, 70, 150, 50, "question", GREY)
    yield _arrow(166, 95, 204, 95)
    yield _box(214, 40, 250, 34, f"p({Retrieve.YES}) = {yes}", BLUE)
    yield _box(214, 116, 250, 34, f"p({Retrieve.NO}) = {no}", BLUE)
    yield _text(216, 92, f"share = {yes} / ({yes} + {no}) = {share:.2f}")
    yield _text(216, 108, f"compared with threshold = {config.threshold}")
    yield _arrow(464, 57, 520, 57)
    yield _arrow(464, 133, 520, 133)
    yield _box(520, 40, 184, 34, "above: read passages", GREEN)
    yield _box(520, 116, 184, 34, "else: write without", GREY)


def _critique() -> Iterator[str]:
    parts = (
        (str(Retrieve.YES), BLUE, 96, "model"),
        (f"{Marker.PARAGRAPH_START} passage {Marker.PARAGRAPH_END}", GREY, 218, "search"),
        (str(Relevance.RELEVANT), AMBER, 90, "model"),
        ("text", "#ffffff", 54, "model"),
        (str(Support.FULL), GREEN, 132, "model"),
        (str(Utility.U5), RED, 86, "model"),
    )
    x = 16.0
    yield _text(16, 34, "One segment, from left to right:", bold=True)
    for text, colour, width, writer in parts:
        yield _box(x, 56, width, 34, text, colour)
        yield _text(x + width / 2, 108, writer, anchor="middle")
        x += width + 2
    yield _text(
        16, 142, "The probabilities at the three critique tokens are kept: they are the scores."
    )


def _scores() -> Iterator[str]:
    weights = ScoreWeights()
    groups: tuple[tuple[str, float, list[float], float, str], ...] = (
        ("relevance", weights.relevance, [0.05, 0.85], 0.0, AMBER),
        ("support", weights.support, [0.7, 0.2, 0.1], 0.0, GREEN),
        ("utility", weights.utility, [0.02, 0.03, 0.1, 0.25, 0.6], 0.0, RED),
    )
    functions = (relevance_score, support_score, utility_score)
    kinds: tuple[Sequence[str], ...] = (tuple(Relevance), tuple(Support), tuple(Utility))
    total = 0.0
    for row, ((name, weight, probs, _, colour), function) in enumerate(
        zip(groups, functions, strict=True)
    ):
        score, y = function(np.log(probs)), 16 + row * 62
        total += weight * score
        x = 16.0
        for token, prob in zip(kinds[row], probs, strict=True):
            label = token.strip("[]").replace("No support / Contradictory", "No support")
            width = 22 + 7.2 * (len(label) + 5)
            yield _box(x, y + 8, width, 28, f"{label} {prob:g}", colour)
            x += width + 4
        yield _text(704, y + 52, f"{name} {score:.2f}   {TIMES} {weight:g}", anchor="end")
    sequence = 0.9
    total += weights.sequence * sequence
    yield _text(16, 220, "sequence: geometric mean probability of all tokens written")
    yield _text(704, 220, f"sequence {sequence:.2f}   {TIMES} {weights.sequence:g}", anchor="end")
    yield _text(704, 250, f"total {total:.2f}", anchor="end", bold=True)


def _search() -> Iterator[str]:
    config = SearchConfig()
    yield _box(16, 140, 110, 40, "question", GREY)
    kept_first, kept_second = {0, 3}, {1, 4}
    for level, (x, kept) in enumerate(((200, kept_first), (430, kept_second))):
        for row in range(config.top_k):
            y = 44 + row * 52
            if level == 0:
                yield _arrow(126, 160, x, y + 17)
            else:
                yield _arrow(330, 61 + (0 if row < 3 else 3) * 52, x, y + 17)
            is_kept = row in kept
            yield _box(
                x,
                y,
                130,
                34,
                f"candidate {'kept' if is_kept else 'lost'}",
                GREEN if is_kept else GREY,
            )
    yield _arrow(560, 113, 610, 165)
    yield _box(610, 146, 94, 40, "answer", BLUE)
    yield _text(265, 28, f"level 1: top_k = {config.top_k} passages", anchor="middle", bold=True)
    yield _text(
        495, 28, f"level 2: beam_width = {config.beam_width} go on", anchor="middle", bold=True
    )
    yield _text(
        16,
        316,
        f"At most max_segments = {config.max_segments} levels. "
        "The best path wins: the one with the highest sum of totals.",
    )


def _svg(height: int, body: str, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="13">\n<title>{escape(title)}</title>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>\n{body}</svg>\n'
    )


def _box(x: float, y: float, width: float, height: float, text: str, colour: str) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{colour}" '
        'stroke="#777"/>\n' + _text(x + width / 2, y + height / 2 + 4.5, text, anchor="middle")
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="#222" text-anchor="{anchor}"{weight}>{escape(text)}'
        "</text>\n"
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#555" '
        'marker-end="url(#tip)"/>\n'
    )


if __name__ == "__main__":
    main()
