"""Growing a vocabulary by the reflection tokens, of any tokenizer and model family.

New rows start as the mean of the rows of their own words, and are trained. The released generator
left them random (REFERENCE: `finetune.py`), and its LoRA option never trained them.
"""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from selfrag.reflection import REFLECTION_TOKENS


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


def add_reflection_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Grows `tokenizer` and `model` by the 15 tokens, both in place; their ids.

    Tokens that the vocabulary already holds keep their rows, so a second call changes nothing.
    """
    grow_model(model, tokenizer, grow_tokenizer(tokenizer))
    return reflection_ids(tokenizer)


def reflection_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the 15 tokens in order; none of a tokenizer that lacks one of them."""
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary.get(token.value) for token in REFLECTION_TOKENS]
    return [] if None in ids else ids


def _words(token: str) -> str:
    """`[Utility:5]` as ` Utility 5`: the words alone, as they occur inside text."""
    return " " + "".join(char if char.isalnum() else " " for char in token).strip()
