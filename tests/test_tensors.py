"""Tensors of a safetensors file on numpy alone."""

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from selfrag.engine.tensors import mapped_tensors


def test_bf16_is_read_as_fp32(tmp_path):
    # bf16 is the upper half of fp32: 1.5 is 0x3FC00000, -2 is 0xC0000000.
    bits = np.array([[0x3FC0], [0xC000]], np.uint16).tobytes()
    header = b'{"w":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}'
    (tmp_path / "t").write_bytes(len(header).to_bytes(8, "little") + header + bits)
    found = mapped_tensors(tmp_path / "t")["w"]
    assert found.dtype == np.float32 and found.tolist() == [[1.5], [-2.0]]


def test_bf16_is_expanded_only_while_it_is_used(tmp_path):
    bits = np.zeros(1 << 22, np.uint16)  # 8 MiB, 16 in fp32
    entry = f'{{"dtype":"BF16","shape":[{bits.size}],"data_offsets":[0,{bits.nbytes}]}}'
    header = f'{{"w":{entry}}}'.encode()
    (tmp_path / "t").write_bytes(len(header).to_bytes(8, "little") + header + bits.tobytes())
    tracemalloc.start()
    try:
        tensors = mapped_tensors(tmp_path / "t")
        assert "w" in tensors and "v" not in tensors
        _, unread = tracemalloc.get_traced_memory()
        assert tensors["w"].nbytes == 4 * bits.size
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(unread, held) < 1 << 20 < 1 << 24 <= peak


def test_other_types_come_back_as_they_were_saved(tmp_path):
    saved = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([0.5, -1], np.float16),
        "c": np.array([1, 2], np.uint16),
    }
    save_file(saved, tmp_path / "t", metadata={"format": "pt"})
    found = mapped_tensors(tmp_path / "t")
    assert found.keys() == saved.keys()
    assert all(found[name].dtype == saved[name].dtype for name in saved)
    assert all(np.array_equal(found[name], saved[name]) for name in saved)


@pytest.mark.parametrize("content", [b"", b"cut short", b"\x02\0\0\0\0\0\0\0{]"])
def test_a_damaged_file_is_a_value_error(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ValueError):
        mapped_tensors(tmp_path / "t")


def test_a_file_that_is_cut_among_its_tensors_says_so(tmp_path):
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "t")
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-6])
    with pytest.raises(ValueError, match=r"t is cut: 10 bytes of tensors, 16 in its header"):
        mapped_tensors(tmp_path / "t")


def test_a_type_that_is_no_float_is_named(tmp_path):
    save_file({"a": np.array([1], np.int8)}, tmp_path / "t")
    with pytest.raises(ValueError, match="type I8"):
        mapped_tensors(tmp_path / "t")
