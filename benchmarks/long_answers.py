"""Long answers to read by hand: 15 comparisons over the demo index, and 15 biographies.

`python benchmarks/long_answers.py --data DIR` asks the default weights. What to count: whether the
question is answered, whether every sentence is right by the passage that it cites, and doubled
titles and half sentences. Biographies are the first of `factscore_bio/bio_part`, each over its own
five passages.
"""

import argparse
import sys
from pathlib import Path

from selfrag import SelfRAG
from selfrag.decode.answer import Answer
from selfrag.engine.base import Precision
from selfrag.open.engines import ModelOptions
from selfrag.passage import Passage

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "default_weights"))
from sets import read_set

COMPARISONS = (
    "What is the difference between a frog and a toad?",
    "Compare the violin and the cello.",
    "What is the difference between a moth and a butterfly?",
    "How do llamas and alpacas differ?",
    "Compare Mars and Venus.",
    "What is the difference between copper and zinc?",
    "How do the Danube and the Rhine differ?",
    "What is the difference between a crocodile and an alligator?",
    "Compare Portugal and Spain.",
    "How do Mozart and Beethoven differ?",
    "Compare silver and gold.",
    "What is the difference between chess and draughts?",
    "Compare Jupiter and Saturn.",
    "What is the difference between beer and wine?",
    "Can you tell me the difference between a leopard and a jaguar?",
)
N_BIOGRAPHIES, N_PASSAGES = 15, 5


def show(answer: Answer, titles: list[str]) -> None:
    """One answer with its citations, and the titles that were there to cite."""
    print(f"Q: {answer.question}\nA: {answer.cited_text}")
    if titles:
        print(f"   over: {'; '.join(titles)}")
    print(flush=True)


def main() -> None:
    """Asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--precision", type=Precision, default=Precision.EXACT)
    options = parser.parse_args()
    rag = SelfRAG.from_pretrained(ModelOptions(precision=options.precision))
    for answer in rag.batch(COMPARISONS):
        show(answer, [])
    for row in read_set(options.data, "factscore_bio/bio_part")[:N_BIOGRAPHIES]:
        passages = [
            Passage(title=passage["title"], text=passage["text"])
            for passage in row["passages"][:N_PASSAGES]
        ]
        answer = rag.ask(row["prompt"], passages=passages)
        show(answer, [passage.title for passage in passages])


if __name__ == "__main__":
    main()
