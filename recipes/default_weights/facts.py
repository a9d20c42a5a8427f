"""Records about made-up facts: questions whose passage is a sentence or two, without any data set.

A passage of a few words without a title; and two things of one kind, half of the time with names
that begin alike, each with a passage of its own: the question is about one of them, and the
passage about the other is refused. Knows nothing of files.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from contrasts import Text, capital, judged
from labelled import LabelledQuestion, answer_record, answer_text, refusal_record
from selfrag.passage import Passage
from selfrag.prompt import check_instruction
from selfrag.reflection import Support, Utility
from selfrag.released import GeneratorRecord

# Facts of a few words: question, sentence, and what `{}` may be.
_PEOPLE = (
    "Maria",
    "Tom",
    "Captain Lee",
    "The gardener",
    "Our neighbour",
    "Aisha",
    "Paul Meyer",
    "Ivan",
)
_PLACES = ("in the cellar", "in Lyon", "on the second floor", "at the station", "in the red box")
_TIMES = ("on 4 June", "on Friday", "at 9 am", "in 2031", "next Tuesday", "on 17 October")
_DEEDS = (
    "sent it", "said that", "found this", "repaired the pump", "called the doctor", "took them",
    "lost the key", "chose the colour", "wrote this letter", "closed the door", "won", "started it",
)  # fmt: skip
_THINGS = ("the old map", "my bicycle", "the spare key", "your coat", "the archive", "our tent")
_EVENTS = ("the meeting", "the exam", "the second test", "the party", "the next delivery")
_Facts = tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...]
_FACTS: _Facts = (
    ("Who {}?", "{1} {0}.", _DEEDS, _PEOPLE),
    ("Where is {}?", "{0} is {1}.", _THINGS, _PLACES),
    ("When is {}?", "{0} is {1}.", _EVENTS, _TIMES),
)
# Facts that name nothing but the answer, or next to nothing; half of them ask who.
_NAMES = (
    "Lena", "Omar", "Mr Ortiz", "Grandma", "Jo", "The twins", "Sofia", "Henrik", "Dr Patel",
    "My sister", "Kim", "The captain", "Zoe", "Uncle Rob",
)  # fmt: skip
_BARE_DEEDS = (
    "came", "left first", "made it", "broke it", "paid", "saw them", "knows", "called", "fell",
    "wrote that", "agreed", "helped", "told her", "finished it", "asked", "ate it", "saw this",
    "brought them", "stayed", "built this", "cheated", "answered", "drew it", "lied", "tried it",
)  # fmt: skip
_NOUNS = (
    "the door", "Rex", "it", "the soup", "the lake", "her hat", "the bus", "the paint", "Nero",
    "his answer", "the wall", "the box", "Europa", "the ice", "the road",
)  # fmt: skip
_STATES = ("red", "cold", "broken", "wet", "long", "blue", "too small", "empty", "closed", "green")
_SPOTS = ("here", "upstairs", "in Rome", "outside", "at home", "on the roof", "in the garden")
BARE_FACTS: _Facts = (
    ("Who {}?", "{1} {0}.", _BARE_DEEDS, _NAMES),
    ("What is {}?", "{1} is {0}.", _STATES, _NOUNS),
    ("Who {}?", "{1} {0}.", _BARE_DEEDS, _NAMES),
    ("Where is {}?", "{0} is {1}.", _NOUNS, _SPOTS),
)


def short_records(
    n: int, rng: np.random.Generator, facts: _Facts = _FACTS, label: str = "short"
) -> Iterator[list[GeneratorRecord]]:
    """`n` questions about a passage of one or two sentences of a few words, without a title."""

    def pick(options: Sequence[str], besides: str = "") -> str:
        return str(rng.choice([each for each in options if each != besides]))

    for number in range(n):
        asked, said, topics, values = facts[number % len(facts)]
        topic, answer = pick(topics), pick(values)
        sentence = capital(said.format(topic, answer))
        sentences = [sentence]
        if rng.random() < 0.5:
            _, other, others, fillers = facts[int(rng.integers(len(facts)))]
            sentences.append(capital(other.format(pick(others, topic), pick(fillers, answer))))
        passage = Passage(text=" ".join(sentences[:: 1 if rng.random() < 0.5 else -1]))
        item = LabelledQuestion(
            id=f"{label}-{number}",
            dataset="short",
            question=asked.format(topic),
            answers=(answer,),
            gold=passage,
            negatives=(),
        )
        wrong = capital(f"{pick(values, answer)}. {sentence}")
        yield [
            answer_record(
                item,
                passage,
                "right",
                answer_text(answer, sentence),
                Support.FULL,
                utility=Utility.U5,
                answer=capital(answer),
            ),
            judged(
                item.id,
                item.dataset,
                item.question,
                passage,
                Text("wrong-answer", wrong, Support.NONE, Utility.U1),
                group=item.id,
            ),
        ]
        elsewhere = Passage(text=capital(said.format(pick(topics, topic), pick(values))))
        yield [refusal_record(f"{item.id}/irrelevant", item.dataset, item.question, elsewhere)]


def silent_records(n: int, rng: np.random.Generator) -> Iterator[list[GeneratorRecord]]:
    """`n` passages of one sentence, each with three claims to check about what it is about.

    The passage says the first, something else in place of the second, and nothing of the third.
    """
    for number in range(n):
        said, topics, values = _CLAIMED[number % len(_CLAIMED)]
        topic = str(rng.choice(topics))
        right, wrong = (str(each) for each in rng.choice(values, 2, replace=False))
        claims = (
            ("claim", said.format(topic, right), Support.FULL, Utility.U5),
            ("false-claim", said.format(topic, wrong), Support.NONE, Utility.U1),
            ("silent-claim", f"{topic} is {rng.choice(_STATES)}.", Support.NONE, Utility.U1),
        )
        passage = Passage(text=capital(said.format(topic, right)))
        for kind, claim, support, utility in claims:
            text = Text(kind, capital(claim), support, utility)
            yield [judged(f"silent-{number}", "short", check_instruction(text.text), passage, text)]


@dataclass(frozen=True, slots=True)
class _Kind:
    """Things of one kind: how names are made, and what is asked and said of them.

    Every fact is its questions, its sentences and its possible answers; `{0}` is the name, `{1}`
    the answer. Empty `answers` are names of places.
    """

    form: str
    facts: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...]


_WRITERS = (
    "Edna Marlow", "Piet Vandaal", "Ruth Okoye", "Lars Holmgren", "Ines Carvalho", "Walter Pryce",
    "Noor Rahmani", "Dora Kessler", "Simon Achterberg", "Mina Takeda",
)  # fmt: skip
_LANDS = ("Norway", "Peru", "Kenya", "Laos", "Chile")
_PLANETS = ("Saturn", "Mars", "Uranus", "Neptune")
_YEARS = tuple(str(year) for year in range(1802, 2012, 7))
_SKY = ("Lyra", "Cygnus", "Draco", "Perseus", "Aquila", "Carina", "Hydra", "Pavo")
_KINDS = (
    _Kind(
        "{}",
        (
            (
                ("Into which lake does the river {0} flow?", "Where does the {0} end?",
                 "Which lake does the {0} feed?", "What does the river {0} flow into?"),
                ("The {0} empties into Lake {1}.", "Its water reaches Lake {1}."),
                (),
            ),
            (
                ("Where does the river {0} rise?", "Near which town is the source of the {0}?",
                 "Which town lies at the source of the {0}?"),
                ("The {0} is a river that rises near {1}.", "It has its source close to {1}."),
                (),
            ),
        ),
    ),
    _Kind(
        "The {} Letters",
        (
            (
                ("Who wrote {0}?", "Who is the author of {0}?", "Which author created {0}?",
                 "Whose novel is {0}?", "By whom was {0} written?"),
                ("{0} is a novel by {1}.", "It was written by {1}.", "{1} is its author."),
                _WRITERS,
            ),
            (
                ("When was {0} published?", "In which year did {0} appear?",
                 "What year was {0} first printed?", "When did readers first see {0}?"),
                ("{0} was published in {1}.", "It first appeared in {1}."),
                _YEARS,
            ),
        ),
    ),
    _Kind(
        "{} Works",
        (
            (
                ("Who founded {0}?", "Who started {0}?", "Who is the founder of {0}?",
                 "Which person set up {0}?"),
                ("{0} is a company founded by {1}.", "It was set up by {1}."),
                _WRITERS,
            ),
            (
                ("Where is {0} based?", "In which city does {0} have its head office?",
                 "Which city is home to {0}?", "What city is {0} in?"),
                ("{0} has its head office in {1}.", "It is based in {1}."),
                (),
            ),
        ),
    ),
    _Kind(
        "{}",
        (
            (
                ("In which constellation is the star {0}?", "Which constellation has the star {0}?",
                 "Which constellation does the star {0} belong to?", "Where in the sky is {0}?"),
                ("{0} is a star in the constellation {1}.", "It belongs to {1}."),
                _SKY,
            ),
            (
                ("Who discovered {0}?", "Who first saw the star {0}?", "Who was {0} found by?"),
                ("{0} was discovered by {1}.", "{1} was the first to see it."),
                _WRITERS,
            ),
        ),
    ),
    _Kind(
        "{} finch",
        (
            (
                ("Which island does the {0} live on?", "Where does the {0} live?",
                 "What island is home to the {0}?", "Where would you find the {0}?"),
                ("The {0} is a bird of the island {1}.", "It lives on {1}."),
                (),
            ),
            (
                ("Who described the {0}?", "Who first described the {0}?",
                 "By whom was the {0} described?"),
                ("The {0} was described by {1}.", "It was first described by {1}."),
                _WRITERS,
            ),
        ),
    ),
)  # fmt: skip
# A sentence, what it may be about, and what may be said of that.
_CLAIMED = (
    ("{0} is {1}.", _THINGS, _PLACES),
    ("{0} was found by {1}.", _THINGS, _PEOPLE),
    ("{0} is {1}.", _EVENTS, _TIMES),
    ("{0} is the largest lake of {1}.", ("Velmar", "Sidon", "Orra", "Tamo"), _LANDS),
    ("{0} is a moon of {1}.", ("Velda", "Orrin", "Tessa", "Ilmar"), _PLANETS),
    ("{0} was born in {1}.", _WRITERS, _YEARS),
)
# Of these the question and the sentence share the name and little else.
RELATIONS = (
    _Kind(
        "{}",
        (
            (
                ("Which planet does the moon {0} orbit?", "Around which planet does {0} move?",
                 "What does the moon {0} circle?", "Which planet has the moon {0}?"),
                ("{0} is the largest moon of {1}.", "It is a moon of {1}."),
                (),
            ),
            (
                ("Who found the moon {0}?", "Who saw {0} first?", "Who was the discoverer of {0}?"),
                ("{0} was discovered by {1}.", "{1} discovered it."),
                _WRITERS,
            ),
        ),
    ),
    _Kind(
        "{}",
        (
            (
                ("To which country does the island {0} belong?", "Which country owns {0}?",
                 "Which state is {0} part of?", "What nation rules the island of {0}?"),
                ("{0} is the second largest island of {1}.", "It is an island of {1}."),
                _LANDS,
            ),
            (
                ("Where do most people on {0} live?", "What is the main town of {0}?"),
                ("Its largest settlement is {1}.", "The biggest town of {0} is {1}."),
                (),
            ),
        ),
    ),
    _Kind(
        "Lady {}",
        (
            (
                ("Who was the father of {0}?", "Whose daughter was {0}?",
                 "Which man had the daughter {0}?"),
                ("{0} was the only child of {1}.", "Her father was {1}."),
                _WRITERS,
            ),
            (
                ("Where did {0} grow up?", "In which town was {0} raised?"),
                ("She spent her childhood in {1}.", "{0} was brought up in {1}."),
                (),
            ),
        ),
    ),
    _Kind(
        "{} Choir",
        (
            (
                ("Who leads the {0}?", "Who is in charge of the {0}?", "Who heads the {0}?"),
                ("The {0} is conducted by {1}.", "Its conductor is {1}."),
                _WRITERS,
            ),
            (
                ("How old is the {0}?", "When did the {0} begin?", "When was the {0} set up?"),
                ("The {0} has existed since {1}.", "It was founded in {1}."),
                _YEARS,
            ),
        ),
    ),
    _Kind(
        "{}",
        (
            (
                ("Which river does the {0} join?", "Where does the water of the {0} go?",
                 "What river is the {0} a branch of?", "Into what does the {0} drain?"),
                ("The {0} is a tributary of the {1}.", "It is a tributary of the {1}."),
                (),
            ),
            (
                ("What town stands on the {0}?", "Which town does the {0} pass?"),
                ("The {0} flows through {1}.", "On its banks lies {1}."),
                (),
            ),
        ),
    ),
)  # fmt: skip
_STARTS = ("Tra", "Vel", "Mor", "Ka", "Sel", "Dun", "Bri", "Ol", "Fen", "Gar", "Lu", "Ri")
_MIDDLES = ("", "ma", "no", "li", "ta", "ve", "du")
_ENDS = ("ton", "ra", "dor", "mis", "gard", "lin", "ven", "sk", "bury", "na")


def twin_records(
    n: int,
    rng: np.random.Generator,
    kinds: tuple[_Kind, ...] = _KINDS,
    label: str = "twin",
) -> Iterator[list[GeneratorRecord]]:
    """At most `n` questions about one of two things of one kind, on the passage about each."""

    def pick(options: Sequence[str], *besides: str) -> str:
        return str(rng.choice([each for each in options if each not in besides]))

    def name(start: str) -> str:
        return start + pick(_MIDDLES) + pick(_ENDS)

    for number in range(n):
        kind = kinds[number % len(kinds)]
        start = pick(_STARTS)
        mine, other = name(start), name(start if rng.random() < 0.5 else pick(_STARTS))
        if mine == other:
            continue
        passages: list[Passage] = []
        answers: list[str] = []
        sentences_of: list[list[str]] = []
        for called in (kind.form.format(mine), kind.form.format(other)):
            said: list[str] = []
            for place, (_, sentences, values) in enumerate(kind.facts):
                answer = pick(values, *answers) if values else name(pick(_STARTS, start))
                # The first sentence names the thing, the next need not.
                form = sentences[0] if place == 0 else pick(sentences)
                said.append(capital(form.format(called, answer)))
                answers.append(answer)
            title = called if rng.random() < 0.7 else ""
            passages.append(Passage(title=title, text=" ".join(said)))
            sentences_of.append(said)
        asked = int(rng.integers(len(kind.facts)))
        item = LabelledQuestion(
            id=f"{label}-{number}",
            dataset="short",
            question=pick(kind.facts[asked][0]).format(kind.form.format(mine)),
            answers=(answers[asked],),
            gold=passages[0],
            negatives=(passages[1],),
        )
        sentence = sentences_of[0][asked]
        right = answer_record(
            item,
            item.gold,
            "right",
            answer_text(answers[asked], sentence),
            Support.FULL,
            utility=Utility.U5,
            answer=answers[asked],
        )
        about_other = f"{item.id}/twin", item.dataset, item.question, passages[1]
        yield [right, refusal_record(*about_other, group=item.id)]
