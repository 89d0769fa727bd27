"""A byte-level tokenizer small enough to work out by hand."""

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rlaif_jax.data.tokenizer import load_tokenizer


@pytest.fixture(scope='session')
def byte_tokenizer(tmp_path_factory):
  """One token a byte, ids in the order of the alphabet; EOS '<eos>' is 256."""
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  backend = tokenizers.Tokenizer(
    models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[])
  )
  backend.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  backend.decoder = decoders.ByteLevel()
  backend.add_special_tokens(['<eos>'])
  folder = tmp_path_factory.mktemp('byte_tokenizer')
  backend.save(str(folder / 'tokenizer.json'))
  (folder / 'config.json').write_text('{"eos_token_id": 256}')
  return load_tokenizer(folder)
