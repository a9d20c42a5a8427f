"""Generator records: the paper's string form and the JSONL round trip."""

import pytest

from selfrag.errors import BadInput
from selfrag.passage import Passage
from selfrag.reflection import Relevance, Retrieve, Support, Utility
from selfrag.released import GeneratorRecord, SegmentRecord, load_records, save_records

TITAN = Passage(id="p1", title="Titan", text="Titan is a moon of Saturn.")
RECORD = GeneratorRecord(
    id="1",
    dataset="made",
    instruction="Which planet has the moon Titan?",
    group="g",
    segments=(
        SegmentRecord(
            retrieve=Retrieve.YES,
            passage=TITAN,
            relevance=Relevance.RELEVANT,
            text="Saturn.",
            support=Support.FULL,
        ),
        SegmentRecord(retrieve=Retrieve.NO, text="It is large."),
    ),
    utility=Utility.U5,
)


def test_surface_is_the_released_output_string():
    assert RECORD.surface == (
        "[Retrieval]<paragraph>Titan\nTitan is a moon of Saturn.</paragraph>"
        "[Relevant]Saturn.[Fully supported][No Retrieval]It is large.[Utility:5]"
    )


def test_records_survive_the_round_trip(tmp_path):
    wrong = SegmentRecord(retrieve=Retrieve.YES, text="x", learn_text=False, learn_relevance=False)
    open_ended = GeneratorRecord(id="2", dataset="made", instruction="Ünïcode\n", segments=(wrong,))
    path = tmp_path / "records.jsonl"
    save_records([RECORD, open_ended], path)
    assert list(load_records(path)) == [RECORD, open_ended]


@pytest.mark.parametrize("line", ["{}", "[]", "not json", '{"id": 1, "segments": 3}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "records.jsonl"
    save_records([RECORD], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BadInput, match="line 2 is not a record"):
        list(load_records(path))
