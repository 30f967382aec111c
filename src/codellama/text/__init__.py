"""Text to ids and back: the tokenizer, prompts for infilling and chat, stop strings."""
