"""Training: a corpus, a tokenizer, one loop for every stage, and the measures of the result.

The corpus and the tokenizer need neither torch nor anything above the default install; the loop
needs the `train` extra.
"""
