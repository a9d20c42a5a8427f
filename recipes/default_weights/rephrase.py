"""Other wordings by rules: statements from questions, sentences rewritten, and sentences falsified.

Every rule gives nothing where it is not sure to fit. A rewritten sentence says no more than the
one it was made from; a falsified one says something else about the same things. English only.
Knows nothing of records.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from labelled import answer_kind

# Pasts of verbs whose bare form follows "did"; those that are not listed and not regular are left.
_PAST = {
    "become": "became",
    "begin": "began",
    "break": "broke",
    "bring": "brought",
    "build": "built",
    "buy": "bought",
    "choose": "chose",
    "come": "came",
    "cost": "cost",
    "draw": "drew",
    "drive": "drove",
    "fall": "fell",
    "feel": "felt",
    "fight": "fought",
    "find": "found",
    "get": "got",
    "give": "gave",
    "go": "went",
    "grow": "grew",
    "have": "had",
    "hold": "held",
    "keep": "kept",
    "lead": "led",
    "leave": "left",
    "lose": "lost",
    "make": "made",
    "meet": "met",
    "pay": "paid",
    "rise": "rose",
    "run": "ran",
    "say": "said",
    "see": "saw",
    "sell": "sold",
    "send": "sent",
    "sign": "signed",
    "speak": "spoke",
    "spend": "spent",
    "take": "took",
    "teach": "taught",
    "tell": "told",
    "think": "thought",
    "win": "won",
    "write": "wrote",
}
_REGULAR = (
    "achieve add adopt allow announce appear appoint approve arrive ask attack attend believe "
    "call capture cause change claim close compare complete conclude consider construct contain "
    "contribute create declare decide defeat define describe destroy develop die discover earn "
    "elect employ end establish exist expand express fail finish form found gain happen help "
    "host identify include increase influence inspire introduce invade invent join kill last "
    "launch learn live locate love marry mention move name observe occur offer open own perform "
    "play predict produce propose prove publish purchase reach receive record refer reform reject "
    "release remain remove replace represent request require resign result return reveal rule "
    "serve settle show sign start state stay study suffer suggest support surrender travel use "
    "view visit want work"
).split()
_PAST |= {
    verb: verb + "d" if verb.endswith("e") else re.sub("y$", "i", verb) + "ed"
    for verb in _REGULAR
    if verb not in ("stay", "play", "destroy", "employ")
}
_PAST |= {verb: f"{verb}ed" for verb in ("stay", "play", "destroy", "employ")}
_PARTICIPLES = set(_PAST.values()) | {
    *("born", "written", "given", "taken", "known", "seen", "chosen", "drawn", "begun", "spoken"),
    *("shown", "grown", "broken", "driven", "fallen", "sung", "won", "held", "made", "set"),
}
_PREPOSITION = re.compile(
    r"(in|on|at|by|from|to|near|during|after|before|between|since|under|over|around|about|until|"
    r"along|within|throughout|across|outside|inside)\b",
    re.IGNORECASE,
)
_MONTH = "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
_AUXILIARIES = set("did do does was were is are had has have be been can could will".split())
# With these last a question asks for something that a statement would put elsewhere.
_OPEN_END = set("of for in to with by from on at as called known named used about like".split())


def statement(question: str, answer: str) -> str | None:
    """What `question` asks, told with `answer` in it; None where no rule is sure to fit."""
    asked = question.strip().rstrip("?").strip()
    if not asked or len(asked.split()) > 22 or len(answer.split()) > 8:
        return None
    answer = answer.strip().rstrip(".,")
    for rule in (_of_subject, _of_copula, _of_time, _of_did, _of_count):
        told = rule(asked, answer)
        if told is not None:
            return f"{told[:1].upper()}{told[1:]}."
    return None


def _of_subject(asked: str, answer: str) -> str | None:
    """`Who wrote Emma` and `Which city hosted the games`: the answer is the subject."""
    for n_words in (0, 1, 2):
        who = "who" if not n_words else rf"(?:what|which)(?: [a-z]+){{{n_words}}}"
        found = re.match(rf"({who}) (\w+) (.+)$", asked, re.IGNORECASE)
        if not found or found[2] not in _PARTICIPLES | {"has", "have"}:
            continue
        if (_OPEN_END | _AUXILIARIES).isdisjoint(found[1].lower().split()):
            return f"{answer} {found[2]} {found[3]}"
    return None


def _of_copula(asked: str, answer: str) -> str | None:
    """`What is the capital of Peru`: either side may come first."""
    found = re.match(r"(who|what) (is|was|are|were) ((?:the|a|an) .+|\w+'s .+)$", asked, re.I)
    if not found:
        return None
    words = found[3].lower().split()
    if len(words) < 3 or words[-1] in _OPEN_END or (_PARTICIPLES | {"meant"}) & set(words):
        return None
    return f"{found[3]} {found[2]} {answer}"


def _of_time(asked: str, answer: str) -> str | None:
    """`When was the school founded`, `Where was Ann born`."""
    found = re.match(
        r"(when|where|(?:in|on) (?:what|which) (?:year|date|month|day|city|country|state)) "
        r"(was|were|is|are) (.+)$",
        asked,
        re.IGNORECASE,
    )
    if not found:
        return None
    words = found[3].split()
    at = next((i for i, word in enumerate(words) if i and word in _PARTICIPLES), None)
    place = _placed(answer, found[1].lower())
    if at is None or place is None:
        return None
    at -= words[at - 1] in ("first", "originally", "initially", "officially", "formally")
    return " ".join([*words[:at], found[2], *words[at:], place])


def _of_did(asked: str, answer: str) -> str | None:
    """`When did the war end`, `What did Ann write`."""
    found = re.match(
        r"(when|where|what|who|(?:in|on) (?:what|which) (?:year|date|month|day|city|country)) "
        r"did (.+)$",
        asked,
        re.IGNORECASE,
    )
    if not found:
        return None
    words = found[2].split()
    at = next((i for i, word in enumerate(words) if i and word in _PAST), None)
    if at is None or words[at - 1].lower() in ("the", "a", "an", "of", "his", "her", "its", "to"):
        return None
    kind = found[1].lower()
    if kind in ("what", "who"):
        if words[-1].lower() in _OPEN_END or len(words) > at + 1:
            return None
        return " ".join([*words[:at], _PAST[words[at]], answer])
    place = _placed(answer, kind)
    return place and " ".join([*words[:at], _PAST[words[at]], *words[at + 1 :], place])


def _of_count(asked: str, answer: str) -> str | None:
    """`How many people live in Bern`."""
    found = re.match(
        r"how many (\w+(?: \w+)?) (live|lived|died|were|are|served|work) (.+)$", asked, re.I
    )
    if not found or not any(char.isdigit() for char in answer) or found[3].startswith("there"):
        return None
    amount = re.sub(rf"\s*{re.escape(found[1])}$", "", answer, flags=re.IGNORECASE)
    return f"{amount} {found[1]} {found[2]} {found[3]}"


def _placed(answer: str, asked: str) -> str | None:
    """The answer to when or where, with the preposition that it needs."""
    if _PREPOSITION.match(answer):
        return answer[:1].lower() + answer[1:]
    if re.fullmatch(r"\d{4}s", answer):
        return f"in the {answer}"
    if re.fullmatch(r"\d{4}|the \d{4}s", answer) or re.fullmatch(
        rf"{_MONTH},? \d{{4}}", answer, re.IGNORECASE
    ):
        return f"in {answer}"
    if re.fullmatch(rf"({_MONTH} \d\d?|\d\d? {_MONTH})(,? \d{{4}})?", answer, re.IGNORECASE):
        return f"on {answer}"
    is_place = asked.startswith("where") or asked.endswith(("city", "country", "state"))
    return f"in {answer}" if is_place and answer[:1].isupper() else None


def _both_ways(table: str) -> list[tuple[str, str]]:
    pairs = [line.split(" / ") for line in table.strip().split("\n")]
    return [(left, right) for left, right in pairs] + [(right, left) for left, right in pairs]


# Either may stand for the other in most sentences; then those of which only the second may.
_SYNONYMS = [
    *_both_ways("""
began / started
large / big
located in / situated in
founded / established
purchased / bought
film / movie
usually / normally
many / numerous
obtained / got
frequently / often
the majority of / most of
due to / because of
prior to / before
nearly / almost
primarily / mainly
constructed / built
"""),
    ("approximately", "about"),
    ("attempted to", "tried to"),
    ("required", "needed"),
    ("in order to", "to"),
    ("is able to", "can"),
    ("are able to", "can"),
    ("a number of", "several"),
    ("commenced", "started"),
    ("entire", "whole"),
    ("famous", "well known"),
    ("therefore", "so"),
    ("died", "passed away"),
    ("assisted", "helped"),
    ("utilized", "used"),
    ("numerous", "a lot of"),
    ("additional", "more"),
    ("subsequently", "later"),
]
_OPPOSITES = _both_ways("""
first / last
largest / smallest
larger / smaller
highest / lowest
higher / lower
before / after
increased / decreased
increase / decrease
northern / southern
eastern / western
north / south
east / west
more than / less than
most / fewest
oldest / youngest
early / late
won / lost
best / worst
always / never
male / female
began / ended
above / below
public / private
accepted / rejected
majority / minority
""")
_NEGATED = re.compile(
    r"\b(is|was|are|were|has|had|can|could|will|would)\b(?! not| no| never| been)"
)


def rewritten(sentence: str, title: str, rng: np.random.Generator) -> str | None:
    """`sentence` in other words, by at least one rule; it says the same or less."""
    forms = [sentence]
    for index in rng.permutation(len(_REWRITES)):
        other = _REWRITES[int(index)](forms[-1], title)
        # Some rules undo each other.
        if other is not None and other not in forms and len(other.split()) > 3:
            forms.append(other)
        if len(forms) == 4:
            break
    text = forms[-1]
    return f"{text[:1].upper()}{text[1:]}" if len(forms) > 1 else None


def _clause_last(text: str, title: str) -> str | None:
    """The clause that comes first comes last: `Titan was found in 1655.`."""
    found = re.match(
        r"((?:In|On|At|During|After|Before|Since|By|From|Until) [^,;:]{3,60}), ([^,;:]{10,})\.$",
        text,
    )
    if not found:
        return None
    clause, rest = found[1], found[2]
    return f"{rest} {clause[:1].lower()}{clause[1:]}."


def _clause_first(text: str, title: str) -> str | None:
    """The clause that comes last comes first: `In 1655, Titan was found.`."""
    found = re.match(r"([A-Z][^,;:]{10,}) (in (?:\d{4}|the \d{4}s|\w+ \d{4}))\.$", text)
    return f"I{found[2][1:]}, {_lowered(found[1])}." if found else None


def _active(text: str, title: str) -> str | None:
    """The passive becomes active: `Ann Lee published Emma.`."""
    found = re.match(r"([A-Z][^,;:]{2,50}?) (?:was|were) (\w+ed) by ([^,;:]{3,50})\.$", text)
    if not found or " " in found[2] or re.search(r"\b(who|that|which|and|in|on|at)\b", found[3]):
        return None
    return f"{found[3]} {found[2]} {_lowered(found[1])}."


def _shorter(text: str, title: str) -> str | None:
    """Without what stands in brackets, or behind a comma and `which`."""
    shorter = re.sub(r" \([^()]*\)", "", text)
    shorter = re.sub(r", (?:which|who|where|including|such as) [^,]*\.$", ".", shorter)
    shorter = re.sub(r", (?:which|who|where) [^,]*,", "", shorter)
    shorter = re.sub(
        r"\b[Aa]lso |, however,| itself", lambda m: " " if "," in m[0] else "", shorter
    )
    return shorter if shorter != text else None


def _named(text: str, title: str) -> str | None:
    """A pronoun at the beginning becomes the title; the title becomes a pronoun."""
    if not title or len(title.split()) > 4:
        return None
    if text.startswith(f"{title} "):
        return f"It {text[len(title) + 1 :]}"
    return None


def _other_words(text: str, title: str) -> str | None:
    for word, other in _SYNONYMS:
        text, n = re.subn(rf"\b{word}\b", other, text, count=1)
        if n:
            return text
    return None


def _conversational(text: str, title: str) -> str | None:
    """As people type: small letters, no full stop."""
    return text.lower().rstrip(".") if sum(map(ord, text)) % 4 == 0 else None


_REWRITES: tuple[Callable[[str, str], str | None], ...] = (
    _clause_last,
    _clause_first,
    _active,
    _shorter,
    _named,
    _other_words,
    _conversational,
)


def _lowered(text: str) -> str:
    """A sentence's beginning as it stands inside of one."""
    small = ("The", "A", "An", "It", "He", "She", "They", "This", "These", "His", "Her", "Its")
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first in small else text


# A name or a number behind the first word.
NAME = re.compile(rf"(?<=[a-z,] )(?!(?i:{_MONTH})\b)[A-Z][\w'-]+(?: [A-Z][\w'-]+)*")
NUMBER = re.compile(r"\b\d[\d,]*(?:\.\d+)?\b")


def falsified(sentence: str, others: Sequence[str], rng: np.random.Generator) -> str | None:
    """`sentence` with one fact exchanged: a number, a name, an opposite or a negation.

    `others`: names from elsewhere; one that occurs in the sentence is not used.
    """
    for index in rng.permutation(4):
        if index == 0 and (numbers := list(NUMBER.finditer(sentence))):
            found = numbers[int(rng.integers(len(numbers)))]
            return _put(sentence, found, _other_number(found.group(), rng))
        if index == 1 and (names := list(NAME.finditer(sentence))):
            found = names[int(rng.integers(len(names)))]
            if others_fit := [o for o in others if _fits(o, sentence)]:
                return _put(sentence, found, str(rng.choice(others_fit)))
        if index == 2:
            for word, other in _OPPOSITES:
                if re.search(rf"\b{word}\b", sentence):
                    return re.sub(rf"\b{word}\b", other, sentence, count=1)
        if index == 3 and (verb := _NEGATED.search(sentence)):
            return _put(sentence, verb, f"{verb.group()} not")
    return None


def _fits(name: str, sentence: str) -> bool:
    return answer_kind(name) == "name" and name.lower() not in sentence.lower()


def _put(text: str, found: re.Match[str], other: str) -> str:
    return f"{text[: found.start()]}{other}{text[found.end() :]}"


def _other_number(number: str, rng: np.random.Generator) -> str:
    """A number of the same form that is another one; years stay near."""
    if re.fullmatch(r"1\d{3}|20\d\d", number):
        return str(int(number) + int(rng.integers(1, 30)) * int(rng.choice([-1, 1])))
    digits = [i for i, char in enumerate(number) if char.isdigit()]
    at = digits[0]
    other = str((int(number[at]) + int(rng.integers(1, 9)) - 1) % 9 + 1)
    if other == number[at]:
        other = str(int(number[at]) % 9 + 1)
    return f"{number[:at]}{other}{number[at + 1 :]}"


# Wordings of questions: a pattern and what it becomes.
_QUESTIONS: tuple[tuple[str, str], ...] = (
    (r"^In (?:what|which) year (did|was|were) ", r"When \1 "),
    (r"^When (did|was|were) (.+)\?$", r"In which year \1 \2?"),
    (r"^What is the name of (.+)\?$", r"What is \1 called?"),
    (r"^Who (?:is|was) the (.+)\?$", r"Name the \1."),
    (r"^What (is|was|are|were) the (.+)\?$", r"The \2 \1 what?"),
    (r"^What (is|was) the (\w+) of ([A-Z][\w' ]+)\?$", r"What \1 \3's \2?"),
    (r"^How many (\w+) (are|were) there (.+)\?$", r"What is the number of \1 \3?"),
    (r"^How many (.+)\?$", r"What number of \1?"),
    (r"^Where (is|was|are|were) (.+?)(?: located| situated)?\?$", r"In what place \1 \2?"),
    (r"^Which (.+)\?$", r"What \1?"),
    (r"^What (\w+) (was|did|is|has|does) (.+)\?$", r"Which \1 \2 \3?"),
    (r"^Who wrote (.+)\?$", r"Who is the author of \1?"),
    (r"^Who (?:invented|created) (.+)\?$", r"Who came up with \1?"),
    (r"^Who (?:founded|established) (.+)\?$", r"Who was the founder of \1?"),
    (r"^Who discovered (.+)\?$", r"By whom was \1 discovered?"),
    (r"^Who won (.+)\?$", r"Who was the winner of \1?"),
)
_FRAMES = (
    "Do you know {}?",
    "I would like to know: {}?",
    "Please tell me: {}?",
    "{}",
    "Quick question: {}?",
)


def asked_otherwise(question: str, rng: np.random.Generator) -> str:
    """The same question in another wording; as it is where no rule fits."""
    text = question
    fitting = [
        other
        for pattern, put in _QUESTIONS
        if (other := re.sub(pattern, put, question)) != question
    ]
    if fitting:
        text = fitting[int(rng.integers(len(fitting)))]
    for word, other in _SYNONYMS:
        if rng.random() < 0.5:
            text = re.sub(rf"\b{word}\b", other, text, count=1)
    if text == question or rng.random() < 0.2:
        bare = text.rstrip("?. ")
        inner = bare if bare.split(" ", 1)[0].isupper() else f"{bare[:1].lower()}{bare[1:]}"
        frame = _FRAMES[int(rng.integers(len(_FRAMES)))]
        text = frame.format(inner)
    return text
