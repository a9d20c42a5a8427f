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
    retrieval_score,
    support_score,
    utility_score,
)
from selfrag.reflection import Marker, Relevance, Retrieve, Support, Utility

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 480  # still readable on a phone
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
        "tokens": (346, _tokens(), "The 15 reflection tokens in their five groups"),
        "gate": (186, _gate(), "The gate compares two probabilities after the question"),
        "critique": (212, _critique(), "What one segment is made of, and who writes each part"),
        "scores": (358, _scores(), "Probabilities of each group become scores, and a weighted sum"),
        "search": (340, _search(), "A beam search over segments"),
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
    y = 10.0
    for group, question, colour in GROUPS:
        name = str(group.__doc__).partition(":")[0] if group is not Marker else "markers"
        yield _text(12, y + 14, f"{name}: {question}", bold=True)
        chips, y = _chips([(str(token), colour) for token in group], y + 22)
        yield chips
        y += 12


def _chips(parts: Sequence[tuple[str, str]], y: float) -> tuple[str, float]:
    """Boxes side by side, in as many rows as they take, and where the next thing may begin."""
    drawn, x = "", 12.0
    for text, colour in parts:
        width = 16 + 7.0 * len(text)
        if x + width > WIDTH - 8:
            x, y = 12.0, y + 28
        drawn += _box(x, y, width, 24, text, colour)
        x += width + 6
    return drawn, y + 24


def _gate() -> Iterator[str]:
    config, (yes, no) = SearchConfig(), (0.62, 0.05)
    share = yes / (yes + no)
    yield _box(12, 12, 456, 28, "question", GREY)
    yield _arrow(115, 40, 115, 62)
    yield _arrow(365, 40, 365, 62)
    yield _box(12, 62, 206, 28, f"p({Retrieve.YES}) = {yes}", BLUE)
    yield _box(262, 62, 206, 28, f"p({Retrieve.NO}) = {no}", BLUE)
    told = f"share {yes} / ({yes} + {no}) = {share:.2f}, threshold = {config.threshold}"
    yield _text(240, 114, told, anchor="middle", bold=True)
    yield _arrow(115, 124, 115, 146)
    yield _arrow(365, 124, 365, 146)
    yield _box(12, 146, 206, 28, "above: read passages", GREEN)
    yield _box(262, 146, 206, 28, "else: write without", GREY)


def _critique() -> Iterator[str]:
    rows = (
        (str(Retrieve.YES), BLUE, "by the model: read a passage"),
        (f"{Marker.PARAGRAPH_START} passage {Marker.PARAGRAPH_END}", GREY, "from the search"),
        (str(Relevance.RELEVANT), AMBER, "by the model: its score is relevance"),
        ("text", "#ffffff", "by the model: its score is sequence"),
        (str(Support.FULL), GREEN, "by the model: its score is support"),
        (str(Utility.U5), RED, "by the model: its score is utility"),
    )
    for row, (text, colour, told) in enumerate(rows):
        y = 12 + row * 32
        yield _box(12, y, 222, 28, text, colour)
        yield _text(246, y + 18.5, told)


def _scores() -> Iterator[str]:
    weights = ScoreWeights()
    groups = (
        ("relevance", weights.relevance, [0.05, 0.85], relevance_score, tuple(Relevance), AMBER),
        ("support", weights.support, [0.7, 0.2, 0.1], support_score, tuple(Support), GREEN),
        (
            "utility",
            weights.utility,
            [0.02, 0.03, 0.1, 0.25, 0.6],
            utility_score,
            tuple(Utility),
            RED,
        ),
    )
    total, y = 0.0, 10.0
    for name, weight, probs, function, tokens, colour in groups:
        score = function(np.log(probs))
        total += weight * score
        yield _text(12, y + 14, f"{name} {score:.2f} {TIMES} {weight:g}", bold=True)
        names = [token.strip("[]").partition(" / ")[0] for token in tokens]
        parts = [(f"{each} {prob:g}", colour) for each, prob in zip(names, probs, strict=True)]
        chips, y = _chips(parts, y + 22)
        yield chips
        y += 12
    sequence = 0.9
    total += weights.sequence * sequence
    yield _text(12, y + 14, f"sequence {sequence:.2f} {TIMES} {weights.sequence:g}", bold=True)
    yield _text(12, y + 34, "the geometric mean probability of all tokens written")
    y += 48
    lacking = retrieval_score(score=16.0, best=20.0) or 0.0
    total += weights.retrieval * lacking
    yield _text(12, y + 14, f"retrieval {lacking:.2f} {TIMES} {weights.retrieval:g}", bold=True)
    yield _text(12, y + 34, "what the passage's score, 16, lacks of the best one's, 20")
    yield _text(12, y + 62, f"total {total:.2f}", bold=True)


def _search() -> Iterator[str]:
    config = SearchConfig()
    yield _box(12, 140, 78, 40, "question", GREY)
    kept_first, kept_second = {0, 3}, {1, 4}
    for level, (x, kept) in enumerate(((140, kept_first), (276, kept_second))):
        for row in range(config.top_k):
            y = 56 + row * 44
            if level == 0:
                yield _arrow(90, 160, x, y + 15)
            else:
                yield _arrow(x - 60, 71 + (0 if row < 3 else 3) * 44, x, y + 15)
            is_kept = row in kept
            yield _box(x, y, 76, 30, "kept" if is_kept else "lost", GREEN if is_kept else GREY)
    yield _arrow(352, 115, 396, 158)
    yield _box(396, 140, 72, 40, "answer", BLUE)
    yield _text(178, 24, "level 1:", anchor="middle", bold=True)
    yield _text(178, 42, f"top_k = {config.top_k}", anchor="middle", bold=True)
    yield _text(314, 24, "level 2:", anchor="middle", bold=True)
    yield _text(314, 42, f"beam_width = {config.beam_width}", anchor="middle", bold=True)
    yield _text(
        12, 306, f"At most max_segments = {config.max_segments} levels. The best path wins:"
    )
    yield _text(12, 324, "the one with the highest sum of totals.")


def _svg(height: int, body: str, title: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" '
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
