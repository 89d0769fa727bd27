"""The tiny world's tokenizer and models, and the scripts that make them."""
