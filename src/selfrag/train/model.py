"""The model to be trained: any causal base with a grown vocabulary, whole or with LoRA.

New rows of the vocabulary start as the mean of the rows of their own words, and are trained. The
released generator left them random (REFERENCE: `finetune.py`), and its LoRA option never trained
them.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from selfrag.engine.tokenizer import FileTokenizer
from selfrag.engine.transformers import quiet_transformers
from selfrag.errors import BadInput, EngineError, MissingPackage
from selfrag.prompt import PromptFormat
from selfrag.reflection import REFLECTION_TOKENS
from selfrag.train.config import Method, TrainConfig, is_first_process

# The linear layers of the Llama family; of other models all linear layers are adapted.
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a model folder; raises `BadInput` where there is none that can be used."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BadInput(
            f"cannot train {path}: its tokenizer does not load ({_first_line(error)}); expected a "
            "Hugging Face model folder, so name one"
        ) from error
    if tokenizer.eos_token is None:
        raise BadInput(
            f"cannot train {path}: its tokenizer has no end-of-sequence token, so answers could "
            "not end; set eos_token in tokenizer_config.json"
        )
    return tokenizer


def prompt_format(tokenizer: Any, folder: Path) -> PromptFormat:
    """The prompt format of a grown tokenizer, which is saved to `folder`, as engines read it."""
    return PromptFormat.of(file_tokenizer(tokenizer, folder))


def file_tokenizer(tokenizer: Any, folder: Path) -> FileTokenizer:
    """`tokenizer` as engines read it; the first process saves it to `folder`.

    Of several processes each reads a copy of its own: none finds a file half-written.
    """
    with TemporaryDirectory() as own:
        if is_first_process():
            tokenizer.save_pretrained(str(folder))
        tokenizer.save_pretrained(own)
        return _open_tokenizer(tokenizer, Path(own))


def _open_tokenizer(tokenizer: Any, folder: Path) -> FileTokenizer:
    try:
        return FileTokenizer(folder / "tokenizer.json", end_of_sequence=tokenizer.eos_token)
    except EngineError as error:
        raise BadInput(
            f"cannot train with the tokenizer {type(tokenizer).__name__}: it has no tokenizer.json "
            "form, which the engines read; convert it with transformers first"
        ) from error


def halve_frozen(model: torch.nn.Module) -> None:
    """Casts the frozen matrices to bf16, so that passes in bf16 need not cast them at every step.

    Vectors (norms, biases) are not cast in such passes, and the matrices that hold the trained
    token rows are saved with the adapter: both stay as they are. LoRA layers leave casting to the
    pass: their own goes to fp32 and back.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
    for name, parameter in model.named_parameters():
        frozen_matrix = not parameter.requires_grad and parameter.ndim > 1
        if frozen_matrix and parameter.is_floating_point() and ".token_adapter." not in name:
            parameter.data = parameter.data.to(torch.bfloat16)


def load_model(config: TrainConfig) -> Any:
    """The base model of a run, its vocabulary not grown yet; fp32, or bf16 where it is frozen."""
    on_gpu = torch.cuda.is_available()
    frozen = config.method is not Method.FULL
    dtype = torch.bfloat16 if on_gpu and frozen else torch.float32
    quantisation = None
    if config.method is Method.QLORA:
        if not on_gpu:
            raise BadInput(
                "cannot train with method qlora: no CUDA device is there, and 4-bit weights "
                "need one; use --method lora"
            )
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(
                config.base, dtype=dtype, quantization_config=quantisation
            )
    except ImportError as error:
        raise MissingPackage(
            f"cannot load {config.base}: {_first_line(error)}; 4-bit weights need bitsandbytes, "
            "so run `pip install bitsandbytes`"
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"cannot train {config.base}: it does not load ({_first_line(error)}); expected a "
            "Hugging Face folder of a causal language model, so name one"
        ) from error


def grow_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Adds the 15 tokens to `tokenizer` in place; those that it did not hold before."""
    vocabulary = tokenizer.get_vocab()
    new = [token.value for token in REFLECTION_TOKENS if token.value not in vocabulary]
    tokenizer.add_special_tokens({"extra_special_tokens": new}, replace_extra_special_tokens=False)
    return new


def grow_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    new: list[str],
    *,
    multiple_of: int = 1,
) -> None:
    """Gives `model` rows for the `new` tokens of a grown `tokenizer`, in place.

    Embedding and head get the same care, tied or not. Rows are added only where the model has too
    few, up to a multiple of `multiple_of`; what is added beyond the tokens is the mean of all.
    """
    n_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > n_rows:
        padded = -(-len(tokenizer) // multiple_of) * multiple_of
        model.resize_token_embeddings(padded, mean_resizing=False)
    new_ids = tokenizer.convert_tokens_to_ids(new)
    words = [tokenizer(_words(token), add_special_tokens=False).input_ids for token in new]
    for matrix in {model.get_input_embeddings(), model.get_output_embeddings()} - {None}:
        with torch.no_grad():
            mean = matrix.weight[:n_rows].mean(dim=0)
            matrix.weight[n_rows:] = mean
            for token_id, word_ids in zip(new_ids, words, strict=True):
                known = [word_id for word_id in word_ids if word_id < n_rows]
                matrix.weight[token_id] = matrix.weight[known].mean(dim=0) if known else mean


def reflection_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the 15 tokens in order; none of a tokenizer that lacks one of them."""
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary.get(token.value) for token in REFLECTION_TOKENS]
    return [] if None in ids else ids


def _words(token: str) -> str:
    """`[Utility:5]` as ` Utility 5`: the words alone, as they occur inside text."""
    return " " + "".join(char if char.isalnum() else " " for char in token).strip()


def attach_lora(model: Any, token_ids: Sequence[int], config: TrainConfig) -> Any:
    """LoRA on every linear layer, and the rows `token_ids` trained whole in embedding and head.

    Seeds torch: LoRA draws its first factor at random, before the Trainer sets its own seed.
    """
    if config.method is Method.QLORA:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.gradient_checkpointing
        )
    torch.manual_seed(config.seed)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    present = [name for name in LORA_MODULES if name in names]
    rows = {name: list(token_ids) for name in _matrices(model)} if token_ids else {}
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=present or "all-linear",
        fan_in_fan_out=_has_conv1d(model),
        trainable_token_indices=rows or None,
        task_type="CAUSAL_LM",
    )
    with quiet_peft():
        return get_peft_model(model, lora)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """No warnings of what peft does as it should: an old name it asks for, and grown matrices."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        warnings.filterwarnings("ignore", "Setting `save_embedding_layers`", UserWarning)
        yield


def _matrices(model: Any) -> list[str]:
    """Names of the matrices with a row for each token; a tied head is not named beside its twin."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    wanted = [embedding] if head is None or head.weight is embedding.weight else [embedding, head]
    return [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if any(module is matrix for matrix in wanted)
    ]


def _has_conv1d(model: Any) -> bool:
    """GPT-2 keeps its linear weights transposed."""
    return any(type(module).__name__ == "Conv1D" for module in model.modules())


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
