"""Long answers to read by hand: 15 comparisons over the demo index, and 15 biographies.

`python benchmarks/long_answers.py --data DIR` asks the default weights. What to count: whether the
question is answered, whether every sentence is right by the passage that it cites, and doubled
titles and half sentences. Biographies are the first of `factscore_bio/bio_part`, each over its own
five passages. 55 more, of well-known people over the demo index, are counted: those that cite no
passage but ones with the name as title.
"""

import argparse
import sys
from pathlib import Path

from selfrag import SelfRAG
from selfrag.decode.answer import Answer
from selfrag.decode.config import SearchConfig
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
# `join_relevance` was looked for on the first 25.
PEOPLE = (
    *("Marie Curie", "Isaac Newton", "Charles Darwin", "George Washington", "Mark Twain"),
    *("Ada Lovelace", "Alan Turing", "Albert Einstein", "Leonardo da Vinci", "Napoleon"),
    *("Wolfgang Amadeus Mozart", "Mahatma Gandhi", "Nelson Mandela", "Abraham Lincoln"),
    *("Vincent van Gogh", "Galileo Galilei", "Aristotle", "Cleopatra", "Frida Kahlo"),
    *("Jane Austen", "William Shakespeare", "Elvis Presley", "Michael Jackson", "Pelé", "Molière"),
    *("Stephen Hawking", "Nikola Tesla", "Johann Sebastian Bach", "Pablo Picasso", "Julius Caesar"),
    *("Alexander the Great", "Winston Churchill", "Adolf Hitler", "Joan of Arc", "Thomas Edison"),
    *("Charles Dickens", "Franz Kafka", "Sigmund Freud", "Karl Marx", "Florence Nightingale"),
    *("Rosa Parks", "Martin Luther King Jr.", "Muhammad Ali", "Bob Dylan", "Madonna"),
    *("Lionel Messi", "Serena Williams", "Neil Armstrong", "Louis Pasteur", "Michelangelo"),
    *("Confucius", "Plato", "Genghis Khan", "Catherine the Great", "Marilyn Monroe"),
)
N_BIOGRAPHIES, N_PASSAGES = 15, 5


def show(answer: Answer, titles: list[str]) -> None:
    """One answer with its citations, and the titles that were there to cite."""
    print(f"Q: {answer.question}\nA: {answer.cited_text}")
    if titles:
        print(f"   over: {'; '.join(titles)}")
    print(flush=True)


def titles(answer: Answer) -> set[str]:
    """The titles of the passages that an answer cites."""
    cited = {number for segment in answer.segments for number in segment.citations}
    return {answer.passages[number - 1].passage.title or "" for number in cited}


def main() -> None:
    """Asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--precision", type=Precision, default=Precision.EXACT)
    parser.add_argument("--join-relevance", type=float, default=SearchConfig().join_relevance)
    options = parser.parse_args()
    rag = SelfRAG.from_pretrained(
        ModelOptions(precision=options.precision),
        config=SearchConfig(join_relevance=options.join_relevance),
    )
    for answer in rag.batch(COMPARISONS):
        show(answer, [])
    told = rag.batch([f"Tell me a bio of {name}." for name in PEOPLE])
    for answer in told:
        show(answer, sorted(titles(answer)))
    alone = [titles(answer) == {name} for name, answer in zip(PEOPLE, told, strict=True)]
    print(
        f"about the person alone: {sum(alone[:25])} of the first 25, {sum(alone)} of {len(alone)}\n"
    )
    for row in read_set(options.data, "factscore_bio/bio_part")[:N_BIOGRAPHIES]:
        passages = [
            Passage(title=passage["title"], text=passage["text"])
            for passage in row["passages"][:N_PASSAGES]
        ]
        answer = rag.ask(row["prompt"], passages=passages)
        show(answer, [passage.title for passage in passages])


if __name__ == "__main__":
    main()
