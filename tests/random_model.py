"""A language model without weights whose every completion is drawn by seed and prompt."""

import numpy as np

from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.engine.scripted import ScriptedEngine, ScriptedTokenizer, say
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Marker
from selfrag.retrieval.base import GivenPassages

END = "</s>"
WORDS = ("alpha", "beta", "gamma", "delta")
NEXT = (END, "[Retrieval]", "[No Retrieval]", "[Continue to Use Evidence]")
PASSAGES = [
    Passage(id=f"p{n}", title=f"T{n}", text=f"text {word} \u00e9", source="s", start=n, end=n + 9)
    for n, word in enumerate(WORDS)
]


class RandomModel:
    """Segments with every critique, with any ending; some passages are judged irrelevant."""

    def __init__(self, seed):
        self.seed = seed
        self.tokenizer = ScriptedTokenizer()
        self.fmt = PromptFormat.of(self.tokenizer)
        self.engine = ScriptedEngine(self.tokenizer, self.script)

    def script(self, prompt_ids):
        rng = np.random.default_rng([self.seed, *prompt_ids])
        part = lambda: float(rng.uniform(0.02, 0.98))  # noqa: E731
        last = prompt_ids[-1]
        reads = last == self.fmt.ids[Marker.PARAGRAPH_END]
        if not reads and last not in self.fmt.ids.retrieve:
            yes = part()
            return say({"[Retrieval]": yes, "[No Retrieval]": 1 - yes})
        relevance, support, utility = part(), part(), part()
        steps = []
        if reads:
            steps.append({"[Relevant]": relevance, "[Irrelevant]": 1 - relevance})
        steps.append({str(rng.choice(WORDS)): part()})
        if reads:
            full = {"[Fully supported]": support, "[No support / Contradictory]": 1 - support}
            steps.append(full)
        steps.append({"[Utility:5]": utility, "[Utility:1]": 1 - utility})
        return say(*steps, str(rng.choice(NEXT)))

    def answer(self, questions, passages=PASSAGES[:2], **options):
        """Answers and events of one search."""
        events = []
        answers = answer_questions(
            list(questions),
            engine=self.engine,
            retriever=GivenPassages(passages),
            config=SearchConfig(**options),
            on_event=events.append,
        )
        return answers, events
