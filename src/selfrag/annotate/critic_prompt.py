"""What a critic reads and writes, in training and in use: the only place that spells it.

Wrapper and fields are those of the released critic (AkariAsai/self-rag 1fcdc42,
`data_creation/train_special_tokens.py` and `combine_chat_gpt_reward.py`); the task sentences are
ours. The released code wrapped the prompt otherwise in use than in training; here both call these
functions. Knows nothing of models.
"""

from selfrag.annotate.judgement import Case, Group
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL, Tokenizer

# The released names of the five questions, "groudness" included.
TASKS: dict[Group, str] = {
    Group.RETRIEVE: "retrieval",
    Group.RETRIEVE_SENTENCE: "multi_retrieval",
    Group.RELEVANCE: "relevance",
    Group.SUPPORT: "groudness",
    Group.UTILITY: "utility",
}

CRITIC_INSTRUCTIONS: dict[Group, str] = {
    Group.RETRIEVE: (
        "Decide whether looking up documents would help to carry out the instruction."
    ),
    Group.RETRIEVE_SENTENCE: (
        "Decide whether the output sentence needs documents to be looked up, or goes on from the "
        "evidence at hand, or needs no evidence."
    ),
    Group.RELEVANCE: "Decide whether the evidence helps to carry out the instruction.",
    Group.SUPPORT: (
        "Decide how far the evidence supports the output sentence, leaving aside whatever else "
        "you know."
    ),
    Group.UTILITY: "Rate from 1 to 5 how useful the output is to whoever gave the instruction.",
}

_INPUT_HEAD = "\n\n### Input:\n"


def critic_input(case: Case) -> str:
    """The fields of `case` as the critic sees them; preceding sentences only where there are some.

    Order as released: utility and support show the output before the evidence, a sentence's
    retrieval after it.
    """
    output = [f"Output: {case.output}"] if case.output is not None else []
    evidence = [f"Evidence: {case.evidence}"] if case.evidence is not None else []
    preceding = [f"Preceding sentences: {case.preceding}"] if case.preceding else []
    in_order = (evidence, output) if case.group is Group.RETRIEVE_SENTENCE else (output, evidence)
    lines = [f"Task instruction: {case.instruction}", *preceding, *in_order[0], *in_order[1]]
    return "\n".join(lines)


def critic_prompt(instruction: str, fields: str) -> str:
    """The whole prompt; the label and the end of sequence come next, nothing between."""
    tail = INSTRUCTION_TAIL.rstrip("\n")  # as released, without the last newline
    return f"{INSTRUCTION_HEAD}{instruction}{_INPUT_HEAD}{fields}{tail}"


def critic_prompt_ids(
    tokenizer: Tokenizer, instruction: str, fields: str, *, max_tokens: int | None = None
) -> list[int]:
    """`critic_prompt` as ids, none of them from text a control id.

    Longer than `max_tokens`, the input loses its middle: the instruction at its beginning and what
    is judged at its end stay, and the place for the label is never cut off.
    """
    encode = tokenizer.encode
    empty = critic_prompt(instruction, "")
    ids = encode(critic_prompt(instruction, fields))
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    n_kept = max(0, max_tokens - len(encode(empty)) - 2)  # cut pieces may tokenise apart
    body = encode(fields)
    head, tail = body[: n_kept - n_kept // 3], body[len(body) - n_kept // 3 :]
    before, after = empty.split(_INPUT_HEAD)
    return [*encode(before + _INPUT_HEAD), *head, *tail, *encode(after)]


def label_ids(tokenizer: Tokenizer, label: str) -> list[int]:
    """What the critic writes for `label`: its token, or its text where the vocabulary lacks it."""
    try:
        return [tokenizer.token_to_id(label)]
    except KeyError:
        return tokenizer.encode(label)
