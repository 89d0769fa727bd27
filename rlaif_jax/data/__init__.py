"""Host data: tokenizers, data sets, batches, preference records. NumPy only."""
