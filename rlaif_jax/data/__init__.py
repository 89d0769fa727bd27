"""Host data: tokenizers, data sets, batches, preference records. NumPy only."""

import os

# Without this, importing transformers prints that PyTorch is missing.
os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
