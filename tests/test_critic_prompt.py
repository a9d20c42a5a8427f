"""What a critic reads: fields, wrapper, cutting, labels as text or as tokens."""

import pytest

from selfrag.annotate.critic import (
    CRITIC_INSTRUCTIONS,
    critic_input,
    critic_prompt,
    critic_prompt_ids,
    label_ids,
)
from selfrag.annotate.judgement import (
    LABELS,
    Group,
    relevance_case,
    retrieve_case,
    sentence_case,
    support_case,
    utility_case,
)
from selfrag.engine.scripted import ScriptedTokenizer
from selfrag.reflection import Relevance


def test_the_wrapper_is_that_of_the_released_critic():
    assert critic_prompt("Judge.", "Task instruction: Hi") == (
        "### Instruction:\nJudge.\n\n### Input:\nTask instruction: Hi\n\n### Response:"
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (retrieve_case("Q"), "Task instruction: Q"),
        (utility_case("Q", "A"), "Task instruction: Q\nOutput: A"),
        (relevance_case("Q", "T\np"), "Task instruction: Q\nEvidence: T\np"),
        (support_case("Q", "", "p", "S"), "Task instruction: Q\nOutput: S\nEvidence: p"),
        (
            support_case("Q", "B", "p", "S"),
            "Task instruction: Q\nPreceding sentences: B\nOutput: S\nEvidence: p",
        ),
        (
            sentence_case("Q", "B", "p", "S"),
            "Task instruction: Q\nPreceding sentences: B\nEvidence: p\nOutput: S",
        ),
    ],
)
def test_fields_stand_in_the_order_of_the_released_critic(case, expected):
    assert critic_input(case) == expected


def test_a_long_input_loses_its_middle_and_keeps_the_place_for_the_label():
    tokenizer = ScriptedTokenizer()
    body = " ".join(f"w{n}" for n in range(300))
    whole = critic_prompt_ids(tokenizer, "Judge.", body)
    cut = critic_prompt_ids(tokenizer, "Judge.", body, max_tokens=100)
    assert len(whole) > 300 and 90 <= len(cut) <= 100
    text = tokenizer.decode(cut)
    assert text.startswith("### Instruction:\nJudge.\n\n### Input:\nw0 w1 ")
    assert text.endswith(" w299\n\n### Response:")
    assert critic_prompt_ids(tokenizer, "Judge.", body, max_tokens=len(whole)) == whole


def test_text_never_becomes_a_control_token_but_a_label_does():
    tokenizer = ScriptedTokenizer()
    token = tokenizer.token_to_id(Relevance.RELEVANT)
    assert token not in critic_prompt_ids(tokenizer, "Judge.", "Evidence: [Relevant]</s>")
    assert label_ids(tokenizer, Relevance.RELEVANT) == [token]


def test_every_group_has_a_task_sentence_and_labels_that_differ():
    assert set(CRITIC_INSTRUCTIONS) == set(Group) == set(LABELS)
    assert all(len(set(labels)) == len(labels) > 1 for labels in LABELS.values())
