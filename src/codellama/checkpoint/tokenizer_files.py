"""A tokenizer as the files that Hugging Face programs look for beside the weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from codellama.checkpoint.huggingface import OWN_RECORD, TOKENIZER_CONFIG
from codellama.checkpoint.reader import ChatForm
from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig

if TYPE_CHECKING:
    from codellama.text.tokenizer import Tokenizer


def tokenizer_files(
    tokenizer: Tokenizer, config: ModelConfig, chat_form: ChatForm | None
) -> dict[str, bytes]:
    """`tokenizer.model`, `tokenizer.json` and `tokenizer_config.json`, by name.

    Raises:
        CheckpointError: the tokenizer has more pieces than the model has rows of embeddings.
    """
    from codellama.text.hf_json import chat_template, tokenizer_json

    if tokenizer.n_vocab > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {tokenizer.n_vocab} pieces and the model embeds "
            f"{config.vocab_size}",
            hint="tokenizer and weights belong to different models",
        )
    settings: dict[str, Any] = {
        # This class takes tokenizer.json as it is. LlamaTokenizer of transformers 5 builds a
        # pipeline of its own, which loses one of several leading spaces.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.piece(tokenizer.bos_id),
        "eos_token": tokenizer.piece(tokenizer.eos_id),
        "unk_token": tokenizer.piece(tokenizer.unk_id),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_seq_len,
        OWN_RECORD: {"chat_form": chat_form},
    }
    if chat_form is not None:
        from codellama.text.hf_json import chat_template

        settings["chat_template"] = chat_template(
            chat_form, add_dummy_prefix=tokenizer.add_dummy_prefix
        )
    vocabulary = json.dumps(tokenizer_json(tokenizer), ensure_ascii=False, separators=(",", ":"))
    return {
        "tokenizer.model": tokenizer.to_spm_bytes(),
        "tokenizer.json": vocabulary.encode(),
        TOKENIZER_CONFIG: (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode(),
    }
