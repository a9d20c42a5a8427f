"""`selfrag demo`: what a new user sees first."""

from selfrag import assets
from selfrag.cli import render
from selfrag.cli.console import stdout
from selfrag.cli.report import Reporter
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.open import indexes

DEMO_QUESTIONS = (
    "Which planet has the moon Titan?",
    "Who painted the Mona Lisa?",
    "Leave odd one out: twitter, instagram, whatsapp.",
)


def demo() -> None:
    """Fetch the assets, build the demo index and answer three questions."""
    store, engine = indexes.load(None, Reporter())
    for question in DEMO_QUESTIONS:
        stdout.rule(f"[bold]{question}[/bold]", align="left")
        answer = answer_questions(
            [question], engine=engine, retriever=store, config=SearchConfig()
        )[0]
        render.show_answer(stdout, answer)
        stdout.print()
    stdout.print(
        f'Passages: {assets.CORPUS.attribution}\nAsk your own: selfrag ask "…" [--explain]',
        style="dim",
        markup=False,
    )
