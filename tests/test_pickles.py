"""The original's embedding pickles: read without running anything, and joined with passages."""

import os
import pickle
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.f2py.crackfortran import myeval  # evaluates its argument, as runstring runs its own
from numpy.testing._private.utils import runstring

from selfrag.errors import BadInput, StorageError
from selfrag.passage import Passage
from selfrag.retrieval.embed import pickles
from selfrag.retrieval.embed.pickles import (
    import_pickles,
    join_pickles,
    pickle_files,
    read_pickled_shard,
)
from selfrag.retrieval.embed.plan import Plan, survey
from selfrag.retrieval.embed.run import committed_rows, read_shards
from selfrag.retrieval.spec import EncoderSpec

reconstruct = np.zeros(1).__reduce__()[0]
SPEC = EncoderSpec(name="tiny", dim=3, normalised=False, title_separator=" ")
PASSAGES = [
    Passage(id=str(number), title=f"t{number}", text=f"text {number}") for number in range(1, 8)
]


def vector(passage_id: str) -> list[float]:
    number = int(passage_id)
    return [number, number / 2, -number]  # exact in float16


def save(path: Path, ids: Sequence[str], *, dtype: str = "<f2", protocol: int = 4) -> Path:
    vectors = np.array([vector(each) for each in ids], dtype=dtype)
    path.write_bytes(pickle.dumps((list(ids), vectors), protocol=protocol))
    return path


@pytest.fixture
def shards(tmp_path):
    return [
        save(tmp_path / "passages_00", ["1", "2", "3"]),
        save(tmp_path / "passages_01", ["4", "5", "6", "7"]),
    ]


# Reading


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_every_protocol_and_float_type_is_read(tmp_path, protocol, dtype):
    found = read_pickled_shard(save(tmp_path / "p", ["8", "9"], dtype=dtype, protocol=protocol))
    assert found.ids == ("8", "9")
    assert found.vectors.dtype == np.dtype(dtype)
    assert found.vectors.tolist() == [vector("8"), vector("9")]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_columns_first_and_the_module_names_of_old_numpy_are_read(tmp_path, protocol):
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    written = pickle.dumps((["a", "b"], array), protocol=protocol)
    (tmp_path / "new").write_bytes(written)
    assert read_pickled_shard(tmp_path / "new").vectors.tolist() == [[0, 1, 2], [3, 4, 5]]
    if protocol == 2:  # text names: their length is not written before them
        (tmp_path / "old").write_bytes(written.replace(b"numpy._core", b"numpy.core"))
        assert b"numpy.core.multiarray" in (tmp_path / "old").read_bytes()
        assert read_pickled_shard(tmp_path / "old").vectors.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("ids", [[7, 8], (7, 8), np.array([7, 8]), list(np.array([7, 8]))])
def test_numbers_as_ids_become_strings(tmp_path, ids):
    (tmp_path / "p").write_bytes(pickle.dumps([ids, np.zeros((2, 3), np.float16)], protocol=4))
    assert read_pickled_shard(tmp_path / "p").ids == ("7", "8")


class Runs:
    """Pickles as a call: what a hostile file is made of."""

    def __init__(self, call, *arguments):
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


def hostile(marker: Path) -> dict[str, object]:
    """By the forbidden name that the reader must report; most make `marker` where they run."""
    touch, write = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    array = np.zeros((1, 3), np.float16)
    return {
        "posix.system": Runs(os.system, touch),
        "posix.system ": (["1", Runs(os.system, touch)], array),
        "posix.system  ": {"a": [({1: Runs(os.system, touch)},)]},
        "eval": Runs(eval, write),
        "exec": Runs(exec, write),
        "numpy.save": Runs(np.save, str(marker), [1]),
        "numpy.memmap": Runs(np.memmap, str(marker), "u1", "w+", 0, 4),
        "runstring": Runs(runstring, write, {}),
        "crackfortran.myeval": Runs(myeval, write),
        "pickle.loads": Runs(pickle.loads, pickle.dumps(Runs(os.system, touch))),
        "io.open": Runs(open, str(marker), "w"),
        "numpy.load": Runs(np.load, str(marker), None, True),
        "bytes": Runs(bytes, 1),
        "Passage": PASSAGES[0],
    }


HOSTILE = tuple(hostile(Path()))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_hostile_file_asks_for_is_named_and_not_run(tmp_path, name, protocol):
    marker = tmp_path / "marker"
    (tmp_path / "p").write_bytes(pickle.dumps(hostile(marker)[name], protocol=protocol))
    with pytest.raises(BadInput, match=rf"forbidden global \S*{name.strip()},? .*name such files"):
        read_pickled_shard(tmp_path / "p")
    assert not marker.exists()


@pytest.mark.parametrize("name", HOSTILE[:10])
def test_these_files_do_harm_where_they_are_read_plainly(tmp_path, name):
    content = pickle.dumps(hostile(tmp_path / "marker")[name])
    with suppress(Exception):
        pickle.loads(content)
    assert list(tmp_path.glob("marker*"))


GLOBALS = {
    "state of a global": b"cnumpy\nndarray\n}b.",
    "state of an array's maker": b"cnumpy._core.multiarray\n_reconstruct\n}b.",
    "call of ndarray": b"cnumpy\nndarray\n(I4\ntR.",
    "new object": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "new object by a stand-in": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "old instance": b"(inumpy\nndarray\n.",
    "attribute of a name": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.data\x93.",
    "codec": b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
    "persistent": b"Pname\n.",
    "persistent object": b"Vname\nQ.",
    "extension": b"\x82\x01.",
    "no buffer": b"\x80\x05\x97.",
    "appending to an array": b"cnumpy\ndtype\n(Vf2\ntRI1\na.",
}


@pytest.mark.parametrize("case", GLOBALS)
def test_no_opcode_leads_out_of_the_stand_ins(tmp_path, case):
    (tmp_path / "p").write_bytes(GLOBALS[case])
    with pytest.raises(BadInput, match="cannot read embeddings from"):
        read_pickled_shard(tmp_path / "p")


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.0, "x"]], dtype=object),
        np.array([["a", "b"]]),
        np.zeros((1, 2), dtype="M8[s]"),
        np.zeros((1, 2), dtype=[("a", "f4"), ("b", "O")]),
        np.zeros((1, 2), dtype="V4"),
        np.zeros((1, 2), dtype=bool),
        np.zeros((1, 2), dtype=np.complex64),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, array):
    (tmp_path / "p").write_bytes(pickle.dumps((["1"], array), protocol=4))
    with pytest.raises(BadInput, match="an array of dtype"):
        read_pickled_shard(tmp_path / "p")


@pytest.mark.parametrize("shape", [(10**9, 3), (-1, 3), (1, 3, 1, 10**30), ("1", "x"), None])
def test_a_shape_that_its_content_does_not_fill_is_refused(tmp_path, shape):
    state = (1, shape, np.dtype("f2"), False, b"123456")

    class Array:
        def __reduce__(self):
            return (reconstruct, (np.ndarray, (0,), b"b"), state)

    (tmp_path / "p").write_bytes(pickle.dumps((["1"], Array()), protocol=4))
    with pytest.raises(BadInput, match="cannot read embeddings from"):
        read_pickled_shard(tmp_path / "p")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([1, 2, 3], "a list"),
        ({"ids": []}, "a dict"),
        (("12", np.zeros((2, 3), "f2")), "ids that are no list"),
        ((["1", None], np.zeros((2, 3), "f2")), "ids that are no list"),
        ((["1"], np.zeros(3, "f2")), r"vectors that are no float array of shape \(n, dim\)"),
        ((["1"], np.zeros((1, 3), "i4")), r"vectors that are no float array of shape \(n, dim\)"),
        ((["1"], [[1.0]]), r"vectors that are no float array of shape \(n, dim\)"),
        ((["1"], np.zeros((2, 3), "f2")), "1 ids and 2 vectors"),
    ],
)
def test_another_content_is_named(tmp_path, value, found):
    (tmp_path / "p").write_bytes(pickle.dumps(value))
    with pytest.raises(BadInput, match=f"found (an array|{found})"):
        read_pickled_shard(tmp_path / "p")


def test_a_file_that_cannot_be_opened_is_reported(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        read_pickled_shard(tmp_path / "none")


SOUND = pickle.dumps((["1", "2"], np.ones((2, 3), np.float16)), protocol=4)


@given(st.one_of(
    st.binary(max_size=60),
    st.integers(0, len(SOUND) - 1).map(lambda n: SOUND[:n]),
    st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)).map(
        lambda change: SOUND[: change[0]] + bytes([change[1]]) + SOUND[change[0] + 1 :]
    ),
))  # fmt: skip
def test_damage_is_read_or_refused_and_never_anything_else(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with suppress(BadInput):
        assert read_pickled_shard(path).vectors.dtype.kind == "f"


# Joining


def joined(paths, passages=PASSAGES):
    return [(found.id, row.tolist()) for found, row in join_pickles(paths, passages, SPEC)]


def test_passages_and_vectors_come_in_corpus_order(shards):
    assert joined(shards) == [(found.id, vector(found.id)) for found in PASSAGES]


def test_inside_a_file_any_order_will_do(tmp_path, shards):
    save(shards[0], ["3", "1", "2"])
    assert joined(shards) == [(found.id, vector(found.id)) for found in PASSAGES]


def test_missing_passages_are_named(shards):
    with pytest.raises(BadInput, match=r"passages_01: found no passage for 2 of its ids \(5, 7\)"):
        joined(shards, [found for found in PASSAGES if found.id not in ("5", "7")])


def test_of_many_missing_passages_some_are_named(tmp_path):
    path = save(tmp_path / "p", [str(number) for number in range(100, 120)])
    with pytest.raises(BadInput, match=r"20 of its ids \(100, 101, 102, 103, 104, \.\.\.\)"):
        joined([path])


def test_files_in_another_order_than_the_corpus_are_refused(shards):
    with pytest.raises(BadInput, match=r"passages_00: found no passage .*files in their order"):
        joined(shards[::-1])


def test_an_id_that_occurs_twice_is_refused(tmp_path):
    with pytest.raises(BadInput, match="ids that occur twice"):
        joined([save(tmp_path / "p", ["1", "1"])])


def test_other_dims_and_infinite_values_are_refused(tmp_path, shards):
    other = EncoderSpec(name="other", dim=4)
    with pytest.raises(BadInput, match="vectors of 3 dims, but encoder 'other' gives 4"):
        list(join_pickles(shards, PASSAGES, other))
    (tmp_path / "p").write_bytes(pickle.dumps((["1"], np.array([[1, np.inf, 0]]))))
    with pytest.raises(BadInput, match="infinite values in the vector of '1'"):
        joined([tmp_path / "p"])


def test_one_file_is_in_memory_at_a_time(shards, monkeypatch):
    read, alive = [], []

    def reading(path):
        alive.append(sum(each() is not None for each in read))
        found = read_pickled_shard(path)
        read.append(weakref.ref(found.vectors))
        return found

    monkeypatch.setattr(pickles, "read_pickled_shard", reading)
    kept = list(join_pickles(shards, PASSAGES, SPEC))
    assert (len(kept), alive) == (7, [0, 0])


def test_numbers_in_names_count_by_value(tmp_path):
    names = ["passages_1", "passages_10", "passages_2", "passages_00"]
    for name in names:
        (tmp_path / name).touch()
    found = pickle_files([str(tmp_path / "passages_*")])
    assert [path.name for path in found] == [names[3], names[0], names[2], names[1]]


# Importing


def contents(folder: Path) -> list[tuple[int, str, str, list[float]]]:
    return [
        (row["row"], row["id"], row["text"], row["vector"])
        for batch in read_shards(folder)
        for row in batch.to_pylist()
    ]


EXPECTED = [(n, str(n + 1), f"text {n + 1}", vector(str(n + 1))) for n in range(7)]


def test_imported_shards_are_those_that_embedding_writes(tmp_path, shards):
    done: list[int] = []
    plan = import_pickles(
        shards, PASSAGES, tmp_path / "out", SPEC, n_shards=2, on_progress=done.append
    )
    assert Plan.load(tmp_path / "out") == plan
    assert (plan.encoder, plan.n_shards, plan.corpus) == (SPEC, 2, survey(PASSAGES))
    assert contents(tmp_path / "out") == EXPECTED
    assert done == [3, 7]


def test_a_stopped_import_goes_on(tmp_path, shards):
    def stop(n_done):
        raise KeyboardInterrupt

    arguments = (shards, PASSAGES, tmp_path / "out", SPEC)
    with pytest.raises(KeyboardInterrupt):
        import_pickles(*arguments, n_shards=3, commit_rows=1, on_progress=stop)
    assert committed_rows(tmp_path / "out", Plan.load(tmp_path / "out"), range(3)) == [2, 0, 0]
    import_pickles(*arguments, n_shards=3, commit_rows=1)
    assert contents(tmp_path / "out") == EXPECTED


def test_nothing_is_written_before_every_id_has_its_passage(tmp_path, shards):
    with pytest.raises(BadInput, match="found no passage for 1 of its ids"):
        import_pickles(shards, PASSAGES[:-1], tmp_path / "out", SPEC)
    assert not (tmp_path / "out").exists()


def test_passages_without_a_vector_are_left_out_with_a_warning(tmp_path, shards, caplog):
    import_pickles(shards[:1], PASSAGES, tmp_path / "out", SPEC)
    assert contents(tmp_path / "out") == EXPECTED[:3]
    assert caplog.messages == ["left out 4 of 7 passages: they have no vector"]


def test_a_stream_that_cannot_be_read_twice_is_refused(tmp_path, shards):
    with pytest.raises(BadInput, match="gone through only once"):
        import_pickles(shards, iter(PASSAGES), tmp_path / "out", SPEC)
