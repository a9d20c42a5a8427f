"""Prompts and training rows against the whole string, tokenised as the released code does it.

One tokenizer of every family. The released scripts build one string, control tokens spelled out,
and have it tokenised at once; so did the released training.
"""

import json

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

import small_bases
from selfrag.engine.tokenizer import FileTokenizer, open_tokenizer
from selfrag.errors import EngineError
from selfrag.passage import Passage
from selfrag.prompt import INPUT_HEAD, INSTRUCTION_HEAD, INSTRUCTION_TAIL, PromptFormat, Turn
from selfrag.reflection import REFLECTION_TOKENS, Relevance, Retrieve, Support, Utility
from selfrag.released import GeneratorRecord, InstructionRow, SegmentRecord
from selfrag.train.examples import UNIFORM, encode_row

TOKENS = [token.value for token in REFLECTION_TOKENS]


def space_first_alone():
    """Llama as newer conversions have it: a space before the first word of a text alone."""
    tokenizer, start, end = small_bases.llama2()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer, start, end


FAMILIES = {
    "llama2": small_bases.llama2,
    "llama2 first": space_first_alone,
    "mistral": small_bases.mistral,
    "llama3": small_bases.llama3,
    "qwen": small_bases.qwen,
    "gpt2": small_bases.gpt2,
    "smollm": small_bases.smollm,
}


class Family:
    """A tokenizer grown by the 15 tokens, saved to a folder: as we open it, and as the library."""

    def __init__(self, folder, made, *, special=True):
        tokenizer, _, self.end = made()
        tokens = [AddedToken(token, special=special, normalized=False) for token in TOKENS]
        tokenizer.add_special_tokens(tokens) if special else tokenizer.add_tokens(tokens)
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": self.end}))
        self.tokenizer = open_tokenizer(folder)
        self.whole = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(self, string):
        """Ids of the whole string with what the tokenizer itself puts before it."""
        return self.whole.encode(string, add_special_tokens=True).ids


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    return Family(tmp_path_factory.mktemp("family"), FAMILIES[request.param])


@pytest.fixture(scope="module")
def fmt(family):
    return PromptFormat.of(family.tokenizer)


QUESTIONS = ["Which planet has the moon Titan?", "why", "Two\n\nparts: 1, 2", "é 中?", "'s a: \n b"]
PASSAGE = Passage(id="p", title="Titan (moon)", text="Titan is the largest moon, found in 1655.")
PARAGRAPH = f"<paragraph>{PASSAGE.title}\n{PASSAGE.text}</paragraph>"


def spelt(question, task_input=""):
    about = f"{INPUT_HEAD}{task_input}" if task_input else ""
    return f"{INSTRUCTION_HEAD}{question}{about}{INSTRUCTION_TAIL}"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_prompt_has_the_ids_of_the_whole_string(family, fmt, question):
    assert fmt.instruction(question) == family.ids(spelt(question))
    assert fmt.instruction(question, "About this.") == family.ids(spelt(question, "About this."))
    read = [*fmt.instruction(question), fmt.ids[Retrieve.YES], *fmt.passage(PASSAGE)]
    assert read == family.ids(f"{spelt(question)}[Retrieval]{PARAGRAPH}")


def test_a_passage_without_a_title_or_cut_is_that_of_the_string(family, fmt):
    bare = Passage(id="p", title="", text=PASSAGE.text)
    start = fmt.instruction("Q")
    whole = family.ids(f"{spelt('Q')}<paragraph>\n{PASSAGE.text}</paragraph>")
    assert [*start, *fmt.passage(bare)] == whole
    assert fmt.passage(bare, 3)[:4] == whole[len(start) : len(start) + 4]


def test_a_conversation_has_the_ids_of_the_whole_string(family, fmt):
    turns = [Turn(question="Who?", answer="Ann did."), Turn(question="When?", answer="In 1610")]
    string = "".join(f"{spelt(turn.question)}{turn.answer}\n\n" for turn in turns)
    assert fmt.conversation(turns, "Why?") == family.ids(f"{string}{spelt('Why?')}")


ROWS = [
    "[No Retrieval]Plain words.[Utility:5]",
    "Plain words, without a token",
    "\n\nA line",
    f"[Retrieval]{PARAGRAPH}[Relevant]Titan: 1655.[Fully supported][Utility:4]",
    f"First. [Retrieval]{PARAGRAPH}[Relevant] Then.[Partially supported][Continue to Use Evidence]"
    "Again.[Utility:4]",
]


@pytest.mark.parametrize("output", ROWS)
def test_a_training_row_has_the_ids_of_the_whole_string(family, fmt, output):
    row = InstructionRow(instruction="Which moon?", output=output, task_input="Of Saturn.")
    encoded = encode_row(row, fmt, UNIFORM)
    prompt = spelt("Which moon?", "Of Saturn.")
    end = family.tokenizer.end_of_sequence_id
    assert list(encoded.ids) == [*family.ids(f"{prompt}{output}"), end]
    # What the prompt alone takes is not learned, and every id of the answer's text is.
    n_prompt = len(family.ids(prompt))
    assert set(encoded.weights[:n_prompt]) == {0.0}
    if "<paragraph>" not in output:
        assert set(encoded.weights[n_prompt:]) == {1.0}


def test_a_record_has_the_ids_of_its_surface(family, fmt):
    segments = (
        SegmentRecord(
            retrieve=Retrieve.YES,
            passage=PASSAGE,
            relevance=Relevance.RELEVANT,
            text="1655. Titan was found then.",
            answer="1655.",
            support=Support.FULL,
        ),
        SegmentRecord(retrieve=Retrieve.NO, text="More words"),
    )
    record = GeneratorRecord(
        id="r", dataset="d", instruction="When?", segments=segments, utility=Utility.U5
    )
    encoded = encode_row(record, fmt, UNIFORM)
    end = family.tokenizer.end_of_sequence_id
    assert list(encoded.ids) == [*family.ids(f"{spelt('When?')}{record.surface}"), end]


plain_text = st.text(max_size=30).filter(lambda text: "<" not in text and "[" not in text)


@settings(max_examples=60)
@given(question=plain_text, title=plain_text, text=plain_text)
def test_any_plain_text_has_the_ids_of_the_whole_string(family, fmt, question, title, text):
    passage = Passage(id="p", title=title, text=text)
    read = [*fmt.instruction(question), fmt.ids[Retrieve.YES], *fmt.passage(passage)]
    string = f"{spelt(question)}[Retrieval]<paragraph>{title}\n{text}</paragraph>"
    assert read == family.ids(string)


@pytest.mark.parametrize("token", [*TOKENS, "END"])
def test_text_that_spells_a_control_token_stays_text(family, fmt, token):
    token = token.replace("END", family.end)
    control = {*fmt.ids.all, family.tokenizer.end_of_sequence_id}
    for text in (token, f"a {token} b", f"{token}\n{token}"):
        body = fmt.passage(Passage(id="p", title=text, text=text))[1:-1]
        assert control.isdisjoint(body) and control.isdisjoint(fmt.instruction(text))


def test_tokens_that_are_not_marked_as_special_are_refused(tmp_path):
    family = Family(tmp_path, small_bases.smollm, special=False)
    with pytest.raises(EngineError, match=r"cannot use mine: .*'\[No Retrieval\]' as the control"):
        PromptFormat.of(family.tokenizer, model="mine")


def test_a_single_token_that_is_not_marked_as_special_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    family = Family(tmp_path, small_bases.qwen)
    made = json.loads(path.read_text())
    for token in made["added_tokens"]:
        token["special"] = token["content"] != "[Utility:3]"
    path.write_text(json.dumps(made))
    with pytest.raises(EngineError, match=r"'\[Utility:3\]' as the control token, so a passage"):
        PromptFormat.of(FileTokenizer(path, end_of_sequence=family.end))


def test_an_end_token_that_text_can_spell_is_refused(tmp_path):
    """A Unigram model finds `</s>` among its pieces, whatever special tokens there are."""
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -5.0) for c in "abc</s>\n ")]
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, 0, False))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(EngineError, match="'</s>' as the control token"):
        FileTokenizer(tmp_path / "tokenizer.json", end_of_sequence="</s>")


@pytest.mark.parametrize(
    ("files", "end"),
    [
        ({"tokenizer_config.json": {"eos_token": {"content": "</s>"}}}, "</s>"),
        ({"tokenizer_config.json": {}, "special_tokens_map.json": {"eos_token": "</s>"}}, "</s>"),
        ({"tokenizer_config.json": {}, "config.json": {"eos_token_id": 2}}, "</s>"),
        ({"config.json": {"eos_token_id": [2, 1]}}, "</s>"),
    ],
)
def test_the_end_token_is_found_where_a_folder_names_it(tmp_path, files, end):
    small_bases.llama2()[0].save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer = open_tokenizer(tmp_path)
    assert tokenizer.end_of_sequence_id == tokenizer.token_to_id(end)


def test_a_folder_that_names_no_end_token_is_refused(tmp_path):
    small_bases.llama2()[0].save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineError, match="cannot learn the end token"):
        open_tokenizer(tmp_path)


def test_a_folder_with_sentencepiece_alone_is_converted(tmp_path):
    pytest.importorskip("sentencepiece")
    transformers = pytest.importorskip("transformers")
    small_bases.save_sentencepiece(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({"extra_special_tokens": TOKENS})
    grown = tmp_path / "grown"
    tokenizer.save_pretrained(grown)
    opened = open_tokenizer(tmp_path)
    assert opened.encode("A moon.") == tokenizer("A moon.", add_special_tokens=False).input_ids
    fmt = PromptFormat.of(open_tokenizer(grown))
    string = f"{spelt('Which moon?')}[Retrieval]{PARAGRAPH}"
    read = [*fmt.instruction("Which moon?"), fmt.ids[Retrieve.YES], *fmt.passage(PASSAGE)]
    assert read == tokenizer(string).input_ids
