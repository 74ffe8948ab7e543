"""Tiny text encoders with random weights in the layout of Hugging Face."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

ALPHABET = [chr(code) for code in range(ord("a"), ord("z") + 1)]
LETTERS = [*ALPHABET, *(letter + "</w>" for letter in ALPHABET), "<|startoftext|>", "<|endoftext|>"]
WORDS = ["a", "red", "blue", "circle", "square", "left", "of", "above", "small", "large"]


def clip(folder: Path, width: int = 16, projection: int = 12, seed: int = 0) -> Path:
    """CLIP's text tower with a projection: 8 positions, byte-pair tokens of the letters, as openai's files are."""
    torch.manual_seed(seed)
    CLIPTextModelWithProjection(_clip_text(width, projection)).eval().save_pretrained(folder)
    return _with_letters(folder)


def whole_clip(folder: Path) -> Path:
    """CLIP with both towers, of images of 16 pixels."""
    torch.manual_seed(4)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = _clip_text(16, 12)
    CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
    ).save_pretrained(folder)
    return _with_letters(folder)


def _clip_text(width: int, projection: int) -> CLIPTextConfig:
    size = len(LETTERS)
    return CLIPTextConfig(
        vocab_size=size, hidden_size=width, intermediate_size=32, projection_dim=projection, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=8, bos_token_id=size - 2, eos_token_id=size - 1,
        pad_token_id=size - 1,
    )  # fmt: skip


def _with_letters(folder: Path) -> Path:
    """The folder with a tokenizer of byte pairs that knows letters alone."""
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(LETTERS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    facts = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "model_max_length": 8, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    return folder


def t5(folder: Path, width: int = 24) -> Path:
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=len(WORDS) + 3,
        d_model=width,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(config).eval().save_pretrained(folder)
    _tokenizer("</s>").save_pretrained(folder)
    return folder


def llama(folder: Path) -> Path:
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaModel(config).eval().save_pretrained(folder)
    _tokenizer("</s>").save_pretrained(folder)
    return folder


def _tokenizer(end: str) -> PreTrainedTokenizerFast:
    """Words, each a token, and the end; padded behind."""
    special = ("<pad>", end, "<unk>")
    words = Tokenizer(WordLevel({word: place for place, word in enumerate((*special, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token=end, unk_token="<unk>")
