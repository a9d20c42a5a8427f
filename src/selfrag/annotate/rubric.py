"""One rubric a group for a general chat model: the task, the answers it may give, examples.

The words it answers with differ in their first letters, so that the probabilities of its first
token are those of the labels. Label first, then the explanation. All texts are ours; knows nothing
of who reads them.
"""

import json
from dataclasses import dataclass

from selfrag.annotate.judgement import (
    Case,
    Group,
    Label,
    relevance_case,
    retrieve_case,
    sentence_case,
    support_case,
    utility_case,
)
from selfrag.reflection import Relevance, Retrieve, Support, Utility


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One answer: the word to write, the label it stands for, when it is right."""

    word: str
    label: Label
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A case with the word that is right for it, and why."""

    case: Case
    word: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rubric:
    """How a chat model is asked one group; options in the order of `LABELS`."""

    task: str
    options: tuple[Option, ...]
    examples: tuple[Example, ...]


def messages(case: Case, *, explain: bool, structured: bool = False) -> list[tuple[str, str]]:
    """The chat as (role, text): system, examples as turns, then the case.

    With `explain` the model is to add a line that says why, else to write the word alone; with
    `structured` it writes both as a JSON object.
    """
    rubric = RUBRICS[case.group]
    options = "\n".join(f"- {option.word}: {option.meaning}" for option in rubric.options)
    words = ", ".join(option.word for option in rubric.options)
    if structured:
        form = (
            f"Write a JSON object: 'label' is one of these words: {words}; 'explanation' is one "
            "sentence that says why."
        )
    elif explain:
        form = (
            f"First write one of these words: {words}. On the next line write 'Explanation:' and "
            "one sentence that says why."
        )
    else:
        form = f"Write one of these words and nothing else: {words}."
    chat = [("system", f"{rubric.task}\n{options}\n{form}")]
    for example in rubric.examples:
        chat += [
            ("user", show(example.case)),
            ("assistant", _reply(example, explain=explain, structured=structured)),
        ]
    return [*chat, ("user", show(case))]


def _reply(example: Example, *, explain: bool, structured: bool) -> str:
    if structured:
        return json.dumps({"label": example.word, "explanation": example.why})
    return f"{example.word}\nExplanation: {example.why}" if explain else example.word


def show(case: Case) -> str:
    """The fields of `case` under their names, those that the group does not show left out."""
    names = {
        "Instruction": case.instruction,
        "Preceding sentences": case.preceding,
        "Evidence": case.evidence,
        "Sentence" if case.group is not Group.UTILITY else "Answer": case.output,
    }
    return "\n".join(f"{name}: {text}" for name, text in names.items() if text is not None)


_RETRIEVE = Rubric(
    task=(
        "You sort instructions. Some ask for a fact about the world, which an encyclopedia page "
        "would state. Others ask for work that needs no such page: writing something new, or "
        "working on a text that the instruction already contains."
    ),
    options=(
        Option(
            word="work",
            label=Retrieve.NO,
            meaning="write, rewrite, sort or continue something; all that is needed is there",
        ),
        Option(
            word="fact",
            label=Retrieve.YES,
            meaning="say something about the world that a page could confirm",
        ),
    ),
    examples=(
        Example(
            case=retrieve_case("Write a haiku about rain on a tin roof."),
            word="work",
            why="It asks for invention, not for facts.",
        ),
        Example(
            case=retrieve_case("In which year was the Suez Canal opened?"),
            word="fact",
            why="The answer is a date that a page states.",
        ),
        Example(
            case=retrieve_case("Make this sentence polite: Give me the salt."),
            word="work",
            why="All that is needed stands in the instruction.",
        ),
        Example(
            case=retrieve_case("who sang the title song of the film goldfinger"),
            word="fact",
            why="It asks for a name that a page states.",
        ),
        Example(
            case=retrieve_case("Describe how penguins keep their eggs warm."),
            word="fact",
            why="It asks for facts of biology, which pages describe.",
        ),
        Example(
            case=retrieve_case(
                "Which title fits this text best?\n\nThe bus was late again, so Mira walked to "
                "school in the rain."
            ),
            word="work",
            why="The text to work on is given.",
        ),
    ),
)

_SENTENCE = Rubric(
    task=(
        "An answer to an instruction is written sentence by sentence, with one piece of evidence "
        "at hand. You decide what its next sentence rests on."
    ),
    options=(
        Option(
            word="none",
            label=Retrieve.NO,
            meaning="the sentence states no fact that needs checking, such as advice or a link",
        ),
        Option(
            word="search",
            label=Retrieve.YES,
            meaning="it states facts that the evidence does not hold, so look up more",
        ),
        Option(
            word="covered",
            label=Retrieve.CONTINUE,
            meaning="it states facts, and the evidence at hand holds them",
        ),
    ),
    examples=(
        Example(
            case=sentence_case(
                "Tell me about Mount Kenya.",
                "Mount Kenya is the highest mountain in Kenya.",
                "Mount Kenya\nMount Kenya is an extinct volcano and, at 5,199 metres, the highest "
                "mountain in Kenya.",
                "Its summit lies 5,199 metres above the sea.",
            ),
            word="covered",
            why="The evidence gives this height.",
        ),
        Example(
            case=sentence_case(
                "Tell me about Mount Kenya.",
                "Mount Kenya is the highest mountain in Kenya.",
                "Mount Kenya\nMount Kenya is an extinct volcano and, at 5,199 metres, the highest "
                "mountain in Kenya.",
                "The first recorded ascent was made by Halford Mackinder in 1899.",
            ),
            word="search",
            why="The evidence says nothing of an ascent.",
        ),
        Example(
            case=sentence_case(
                "How do I start running?",
                "Begin with short runs on three days a week.",
                "Running\nRunning is a means of terrestrial locomotion.",
                "Above all, be patient with yourself!",
            ),
            word="none",
            why="It is encouragement and states no fact.",
        ),
    ),
)

_RELEVANCE = Rubric(
    task=(
        "You decide whether a piece of evidence gives information that helps to carry out the "
        "instruction. Being about a similar subject is not enough."
    ),
    options=(
        Option(word="irrelevant", label=Relevance.IRRELEVANT, meaning="it does not help"),
        Option(word="relevant", label=Relevance.RELEVANT, meaning="it helps"),
    ),
    examples=(
        Example(
            case=relevance_case(
                "Who wrote the opera Fidelio?",
                "Fidelio\nFidelio is the only opera by Ludwig van Beethoven, first given in 1805.",
            ),
            word="relevant",
            why="It names the composer.",
        ),
        Example(
            case=relevance_case(
                "Who wrote the opera Fidelio?",
                "Theater an der Wien\nThe house opened in 1801 and seats about a thousand people.",
            ),
            word="irrelevant",
            why="It tells of a theatre and says nothing of who wrote the opera.",
        ),
    ),
)

_SUPPORT = Rubric(
    task=(
        "You decide how far a piece of evidence supports a sentence. Go by the evidence alone, not "
        "by what you know or hold to be true."
    ),
    options=(
        Option(
            word="full",
            label=Support.FULL,
            meaning="everything the sentence states is in the evidence",
        ),
        Option(
            word="partial",
            label=Support.PARTIAL,
            meaning="some of it is there, and something that matters is not",
        ),
        Option(
            word="none",
            label=Support.NONE,
            meaning="the evidence says nothing of it, or the contrary",
        ),
    ),
    examples=(
        Example(
            case=support_case(
                "Where do otters live?",
                "",
                "Otter\nSea otters live along the coasts of the northern Pacific.",
                "Sea otters live on the shores of the northern Pacific.",
            ),
            word="full",
            why="The evidence says the same in other words.",
        ),
        Example(
            case=support_case(
                "Where do otters live?",
                "",
                "Otter\nSea otters live along the coasts of the northern Pacific.",
                "Sea otters live on the shores of the northern Pacific and eat sea urchins.",
            ),
            word="partial",
            why="Where they live is there, what they eat is not.",
        ),
        Example(
            case=support_case(
                "Where do otters live?",
                "",
                "Otter\nSea otters live along the coasts of the northern Pacific.",
                "Otters are found on every continent.",
            ),
            word="none",
            why="The evidence speaks of one ocean only.",
        ),
    ),
)

_UTILITY = Rubric(
    task=(
        "You rate how useful an answer is to whoever gave the instruction, from 1 to 5. Do not "
        "check its facts; look at whether it does what was asked, and does it fully and clearly."
    ),
    options=(
        Option(word="1", label=Utility.U1, meaning="beside the point, or no answer"),
        Option(
            word="2", label=Utility.U2, meaning="touches the subject, but misses what was asked"
        ),
        Option(word="3", label=Utility.U3, meaning="acceptable, with large gaps"),
        Option(word="4", label=Utility.U4, meaning="does what was asked, with small gaps"),
        Option(word="5", label=Utility.U5, meaning="complete, clear and to the point"),
    ),
    examples=(
        Example(
            case=utility_case(
                "What is the capital of Norway?", "The capital of Norway is Oslo, on the Oslofjord."
            ),
            word="5",
            why="It answers the question directly.",
        ),
        Example(
            case=utility_case(
                "Name three uses of vinegar and explain each.",
                "Vinegar cleans windows, because its acid dissolves lime. It is used in salads.",
            ),
            word="3",
            why="Two of three uses are there, and one is explained.",
        ),
        Example(
            case=utility_case("Translate 'good morning' into French.", "I like mornings too!"),
            word="1",
            why="It does not translate anything.",
        ),
    ),
)

RUBRICS: dict[Group, Rubric] = {
    Group.RETRIEVE: _RETRIEVE,
    Group.RETRIEVE_SENTENCE: _SENTENCE,
    Group.RELEVANCE: _RELEVANCE,
    Group.SUPPORT: _SUPPORT,
    Group.UTILITY: _UTILITY,
}
