"""`selfrag ask --compat reference`: what the released scripts decide, faults included."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from selfrag.compat.completer import Crash, EngineCompleter, ReferenceConfig
from selfrag.compat.long import LongAnswer, answer_long_form
from selfrag.compat.output import Output, cited_output, short_output
from selfrag.compat.short import ShortAnswer, answer_short_form
from selfrag.decode.config import SearchConfig
from selfrag.engine.base import Engine
from selfrag.passage import Hit
from selfrag.prompt import PromptFormat


def follow_reference(
    question: str, hits: Sequence[Hit], engine: Engine, config: SearchConfig, *, max_depth: int
) -> ShortAnswer | LongAnswer:
    """The short-form script's answer, or the long-form script's where `max_depth` is above 0.

    All score terms are on; `hits` are the passages that the scripts read from their input file.
    """
    completer = EngineCompleter(
        engine=engine,
        fmt=PromptFormat.of(engine.tokenizer, model=engine.name),
        special_tokens_in_text=True,
        max_passage_tokens=config.max_passage_tokens,
    )
    settings = ReferenceConfig(
        mode=config.mode,
        threshold=config.threshold,
        max_new_tokens=config.max_new_tokens,
        use_groundness=True,
        use_utility=True,
        use_seqscore=True,
        weights=config.weights,
        closed=bool(config.choices),
        beam_width=config.beam_width,
        max_depth=max(1, max_depth),
        ignore_cont=config.drop_unsupported,
    )
    decide = answer_long_form if max_depth else answer_short_form
    return decide(question, [hit.passage for hit in hits], completer=completer, config=settings)


def reference_json(question: str, answer: ShortAnswer | LongAnswer) -> dict[str, Any]:
    """The documented JSON form (docs/formats.md)."""
    return {
        "question": question,
        "answer": answer.text,
        "stored": _stored(answer).text,
        "retrieved": answer.retrieved,
        "compat": "reference",
        "form": "short" if isinstance(answer, ShortAnswer) else "long",
        "candidates": _candidates(answer),
        "crash": None if answer.crash is None else asdict(answer.crash),
    }


def _stored(answer: ShortAnswer | LongAnswer) -> Output:
    """What the released script would have written to its output file."""
    return short_output(answer.text) if isinstance(answer, ShortAnswer) else cited_output(answer)


def _candidates(answer: ShortAnswer | LongAnswer) -> list[dict[str, Any]]:
    if isinstance(answer, ShortAnswer):
        return [
            {"passage": c.passage.title, "text": c.text, "score": c.score}
            for c in answer.candidates
        ]
    return [{"text": path.text} for path in answer.paths]


def show_reference(console: Console, answer: ShortAnswer | LongAnswer) -> None:
    """The answer, what it was chosen from, and what the released code would have crashed on."""
    console.print(escape(answer.text) or "(nothing was written)", style="bold")
    for candidate in _candidates(answer):
        facts = ", ".join(f"{k} {v:.3f}" if k == "score" else str(v) for k, v in candidate.items())
        console.print(escape(f"  {facts}"), style="dim")
    console.print("[italic]as the released scripts decide; see docs/compat.md[/italic]")
    if answer.crash is not None:
        console.print(escape(_crash_line(answer.crash)), style="yellow")


def _crash_line(crash: Crash) -> str:
    return f"the released code ends here with {crash.error} ({crash.cause}); {crash.instead}"
