"""Verifying an index: a sound one passes, and each kind of harm is named."""

import shutil

import numpy as np
import pytest

from selfrag.retrieval.build import open_writer
from selfrag.retrieval.table import connect, create_word_index
from selfrag.retrieval.verify import verify_index
from test_writer import build, passages, state
from words import WordEncoder


@pytest.fixture
def index(tmp_path):
    return build(tmp_path / "index", a=30, b=2)


def wrong(path, encoder=None):
    return {check.name: check for check in verify_index(path, encoder=encoder) if not check.ok}


def test_a_sound_index_passes_every_check(index):
    checks = verify_index(index, encoder=WordEncoder())
    assert all(check.ok and not check.remedy for check in checks)
    names = [check.name for check in checks]
    assert {"ids", "texts", "vectors", "files", "words", "encoder"} <= set(names)
    assert next(c.found for c in checks if c.name == "ids") == "32 in order"
    assert next(c.found for c in checks if c.name == "files") == "2 whole"


def test_deleted_passages_are_no_damage(index):
    with open_writer(index, WordEncoder()) as writer:
        writer.delete("id = 'a-1-0'")
    assert wrong(index) == {}


def test_a_file_that_was_broken_off_is_named(index):
    with pytest.raises(ZeroDivisionError), open_writer(index, WordEncoder()) as writer:
        writer._push(passages("c", 3), ("c", "1"))
        writer.flush()
        raise ZeroDivisionError
    assert wrong(index)["files"].found == "of 1 file only a part, such as c"
    with open_writer(index, WordEncoder()) as writer:
        writer.put_file(state("c"), passages("c", 3))
    assert wrong(index) == {}


def rewrite(path, change):
    table = connect(path).open_table("passages")
    rows = table.to_arrow()
    table.add(change(rows), mode="overwrite")
    create_word_index(table)


def test_rows_that_are_there_twice_are_counted(index):
    import pyarrow as pa

    rewrite(index, lambda rows: pa.concat_tables([rows, rows.slice(0, 4)]))
    found = wrong(index)
    assert found["ids"].found == "4 of 36 are there twice"
    assert found["passages of files"].found == "more than were read from a"


def test_vectors_that_no_encoder_wrote_are_counted(index):
    def spoil(rows):
        import pyarrow as pa

        vectors = np.stack(rows["vector"].to_numpy())
        vectors[3] *= 2
        flat = pa.array(vectors.ravel().astype(np.float32))
        column = pa.FixedSizeListArray.from_arrays(flat, type=rows.schema.field("vector").type)
        return rows.set_column(rows.schema.get_field_index("vector"), "vector", column)

    rewrite(index, spoil)
    assert wrong(index)["vectors"].found == "1 of 32 cannot come from the encoder"


def test_vectors_of_other_texts_are_noticed(index):
    class Shifted(WordEncoder):
        def encode(self, texts):
            return np.roll(super().encode(texts), 1, axis=1)

    assert "cosine" in wrong(index, Shifted())["encoder"].found


def test_lost_files_are_a_finding_and_no_exception(index):
    shutil.rmtree(index / "passages.lance" / "data")
    assert "damaged files" in wrong(index)["index"].found


def test_facts_that_do_not_agree_with_their_columns_are_noticed(index):
    connect(index).open_table("passages").update(where="row < 5", values={"title": "Another"})
    assert "as their columns say" in wrong(index)["facts"].found
