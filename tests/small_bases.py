"""Base models of the families that people train, each with a tokenizer of its kind, made small.

Tokenizers are trained on a few sentences, so they split words as real ones do; weights are random.
"""

import io
import json

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

TEXTS = [
    "### Instruction:\nWhich planet has the moon Titan?\n\n### Response:\n",
    "Titan is the largest moon of Saturn, the second largest in the Solar System.",
    "Utility 1 2 3 4 5 Relevant Irrelevant Retrieval No Fully supported Partially paragraph",
    "Wind instruments are blown: a trumpet, a horn, a flute; 1610 and 1921 were years.",
] * 4
SIZE = 400


def _byte_bpe(pattern=None, normalizer=None, digits=False):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    split += [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _trained(tokenizer, specials, **options):
    trainer = BpeTrainer(vocab_size=SIZE, special_tokens=specials, show_progress=False, **options)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _begin_with(tokenizer, token):
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token} $B",
        special_tokens=[(token, tokenizer.token_to_id(token))],
    )


def _word_piece_marks(prepend):
    """The tokenizer.json that SentencePiece models of Llama 2 and Mistral are converted to."""
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    marks = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if prepend:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([*marks, decoders.Strip(" ", 1, 0)])
    _trained(tokenizer, ["<unk>", "<s>", "</s>"])
    learned = json.loads(tokenizer.to_str())["model"]
    vocabulary = learned["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in learned["merges"]]
    tokenizer.model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
    _begin_with(tokenizer, "<s>")
    return tokenizer


def llama2():
    return _word_piece_marks(prepend=True), "<s>", "</s>"


def mistral():
    return _word_piece_marks(prepend=False), "<s>", "</s>"


def llama3():
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|\s+"
    tokenizer = _byte_bpe(pattern)
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"]
    _trained(tokenizer, [], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([AddedToken(s, special=True) for s in specials])
    _begin_with(tokenizer, specials[0])
    return tokenizer, *specials[:2]


def qwen():
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
    tokenizer = _byte_bpe(pattern, normalizers.NFC())
    _trained(tokenizer, [], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    return tokenizer, None, "<|endoftext|>"


def gpt2():
    tokenizer = _byte_bpe()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _trained(tokenizer, ["<|endoftext|>"], initial_alphabet=alphabet)
    return tokenizer, None, "<|endoftext|>"


def smollm():
    tokenizer = _byte_bpe(digits=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _trained(tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet)
    return tokenizer, None, "<|im_end|>"


def save_sentencepiece(folder):
    """A folder with `tokenizer.model` alone, as the first Llama 2 releases had it."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return 330


def save_tokenizer(folder, made):
    """The size of the vocabulary of what `made()` gives, saved to `folder`."""
    tokenizer, start, end = made()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end}
    if start:
        config["bos_token"] = start
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


def save_model(folder, kind, vocab_size, *, tied):
    """Random weights of a `kind` of two layers; the embedding may be larger than the vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
    else:
        sizes = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
        }
    config = AutoConfig.for_model(
        kind,
        vocab_size=vocab_size,
        tie_word_embeddings=tied,
        bos_token_id=0,
        eos_token_id=1,
        **sizes,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def load_base(path):
    """The base model in fp32 with the reflection vocabulary added, its tokenizer, the 15 ids."""
    from selfrag.train.config import Method, TrainConfig
    from selfrag.train.model import grow_model, grow_tokenizer, load_model, load_tokenizer
    from selfrag.train.model import reflection_ids as ids_of

    model = load_model(TrainConfig(base=str(path), out="", method=Method.FULL))
    tokenizer = load_tokenizer(path)
    grow_model(model, tokenizer, grow_tokenizer(tokenizer))
    return model, tokenizer, ids_of(tokenizer)
