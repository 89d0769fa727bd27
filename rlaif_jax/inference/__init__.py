"""Running a language model: decoding, and scoring given strings."""
