"""The C interface of llama.cpp, as far as an engine needs it, by ctypes.

The wheels of `xllamacpp` for Linux and macOS export it whole from their extension module. Structs
are those of `include/llama.h` (ggml-org/llama.cpp, build b11549); as they change between builds,
their default values are compared before any is used. Knows nothing of engines.
"""

import ctypes
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from ctypes import (
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from selfrag.errors import EngineError, MissingPackage

CONTROL, USER_DEFINED = 1 << 3, 1 << 4  # attributes of tokens
SENTENCEPIECE = 1  # a vocabulary with a space before the first word
F32, F16 = 0, 1  # types of keys and values
NO_FLASH_ATTENTION = 0
_ERROR = 4  # a level of the log


class ModelParams(Structure):
    """`llama_model_params`."""

    _fields_: ClassVar = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("load_mode", c_int32),
        ("lazy_mode", c_int32),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class ContextParams(Structure):
    """`llama_context_params`."""

    _fields_: ClassVar = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int32),
        ("rope_scaling_type", c_int32),
        ("pooling_type", c_int32),
        ("attention_type", c_int32),
        ("flash_attn_type", c_int32),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int32),
        ("type_v", c_int32),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    ]


class Batch(Structure):
    """`llama_batch`."""

    _fields_: ClassVar = [
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    ]


_LOG = ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)

# Functions by name: what they return, and what they take.
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_log_set": (None, [_LOG, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_seq_max": (c_uint32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_model_n_ctx_train": (c_int32, [c_void_p]),
    "llama_model_n_layer": (c_int32, [c_void_p]),
    "llama_model_n_embd": (c_int32, [c_void_p]),
    "llama_model_n_head": (c_int32, [c_void_p]),
    "llama_model_n_head_kv": (c_int32, [c_void_p]),
    "llama_model_ftype": (c_int32, [c_void_p]),
    "llama_model_has_encoder": (c_bool, [c_void_p]),
    "llama_model_is_recurrent": (c_bool, [c_void_p]),
    "llama_model_is_hybrid": (c_bool, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_type": (c_int32, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_get_text": (c_char_p, [c_void_p, c_int32]),
    "llama_vocab_get_attr": (c_int32, [c_void_p, c_int32]),
    "llama_vocab_eos": (c_int32, [c_void_p]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_tokenize": (
        c_int32,
        [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool],
    ),
    "llama_detokenize": (
        c_int32,
        [c_void_p, c_void_p, c_int32, c_void_p, c_int32, c_bool, c_bool],
    ),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_set_adapters_lora": (
        c_int32,
        [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)],
    ),
}

# What the fields of the defaults hold in the build that the structs were written down from.
_MODEL_DEFAULTS = {"n_gpu_layers": -1, "split_mode": 1, "load_mode": -1, "use_extra_bufts": True}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_outputs_max_per_seq": 1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "type_k": F16,
    "type_v": F16,
    "embeddings": False,
    "offload_kqv": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
}


class Llama:
    """The functions of llama.cpp by name, and what it last complained about."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library
        self._complaints: deque[str] = deque(maxlen=3)
        self._log = _LOG(self._complain)  # kept, as the library calls it
        library.llama_log_set(self._log, None)
        library.llama_backend_init()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def _complain(self, level: int, text: bytes, _: Any) -> None:
        if level == _ERROR:
            self._complaints.append(text.decode(errors="replace").strip())

    def complaint(self) -> str:
        """The errors that were logged since the last call, in one line."""
        said = "; ".join(self._complaints) or "nothing"
        self._complaints.clear()
        return " ".join(said.split())[-300:]


class Owned:
    """Handles that are freed, the last taken first, with their owner or when the process ends.

    Before the interpreter goes, as llama.cpp logs by a function of ours. False once freed.
    """

    def __init__(self, owner: object) -> None:
        self._handles: list[tuple[Callable[[int], None], int]] = []
        weakref.finalize(owner, _free, self._handles)

    def take(self, free: Callable[[int], None], handle: int) -> int:
        """The handle, which `free` frees."""
        self._handles.append((free, handle))
        return handle

    def __bool__(self) -> bool:
        return bool(self._handles)


def _free(handles: list[tuple[Callable[[int], None], int]]) -> None:
    while handles:
        free, handle = handles.pop()
        free(handle)


@cache
def llama() -> Llama:
    """llama.cpp, loaded once. Raises `EngineError` where it is missing or of another layout."""
    path = _extension()
    try:
        found = Llama(path)
    except (OSError, AttributeError) as error:  # no such library, or a build that exports nothing
        raise EngineError(
            f"cannot use llama.cpp of {path}: {error}; expected a wheel of xllamacpp for Linux or "
            "macOS, so install that, or serve the model and name its address"
        ) from error
    _require_layout(found.llama_model_default_params(), _MODEL_DEFAULTS, path)
    _require_layout(found.llama_context_default_params(), _CONTEXT_DEFAULTS, path)
    return found


def token_array(ids: Sequence[int]) -> Any:
    """Ids as C has them."""
    return (c_int32 * len(ids))(*ids)


def _extension() -> Path:
    """The extension module of `xllamacpp`, found without importing it."""
    spec = find_spec("xllamacpp")
    folders = (spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for pattern in ("*.so", "*.pyd"):
            for path in Path(folder).glob(pattern):
                return path
    raise MissingPackage(
        "cannot run a GGUF model: xllamacpp is not installed, which brings llama.cpp; "
        'run `pip install "selfrag[gguf]"`'
    )


def _require_layout(params: Structure, expected: dict[str, Any], path: Path) -> None:
    found = {name: getattr(params, name) for name in expected}
    if found != expected:
        raise EngineError(
            f"cannot use llama.cpp of {path}: its defaults read as {found}, expected {expected}, "
            "so its structs have another layout; install xllamacpp==2026.10.11549"
        )
