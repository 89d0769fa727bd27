"""How stages sample: RL by its `sampler` block, others all rows in batches."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.core.types import Key, Rollout
from rlaif_jax.data import transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.inference import compact, decode, stop
from rlaif_jax.inference.sampler import Sampler
from rlaif_jax.models import LanguageModel, with_options
from rlaif_jax.stages import common


def config() -> ConfigDict:
  """The plain loop with a cache like the activations; nothing else."""
  return ConfigDict(
    dict(
      # Finished rows leave the batch, so that one long row does not hold it;
      # compiles up to log2(batch) programs more. Samples are the same.
      compact=False,
      int8_cache=False,  # keys and values in a quarter to half of the memory
      # Weights are put together along the mesh's `fsdp` once a rollout, and not
      # for every token: many times faster where they fit so (the plan tells).
      gather=False,
      stop=(),  # texts that end a response, as EOS does
      # Prompts are padded to the longest of their batch, to 64, 96, 128, 192,
      # ... tokens, and not to max_prompt; each length that occurs is compiled.
      buckets=True,
    )
  )


def check(config: ConfigDict) -> None:
  """Raises ValueError where the block does not fit the rest of the config."""
  if config.sampler.stop and config.missing_eos_penalty:
    raise ValueError(
      f'config.sampler.stop={config.sampler.stop!r} ends responses without '
      f'EOS, which config.missing_eos_penalty={config.missing_eos_penalty} '
      'punishes; leave one of them out'
    )


def as_sampled(block: ConfigDict, model: LanguageModel) -> LanguageModel:
  """The model as a `sampler` block has it decode."""
  cache_dtype = 'int8' if block.int8_cache else model.config.cache_dtype
  return with_options(model, cache_dtype=cache_dtype, gather=block.gather)


def make(config: ConfigDict, loaded: common.Loaded) -> Sampler:
  """The sampler of an RL config, compiled when it is first called."""
  block, tokenizer = config.sampler, loaded.tokenizer
  model = as_sampled(block, loaded.model)
  stops = None
  if block.stop:
    pieces = stop.pieces_of(tokenizer.decode_batch, model.config.vocab_size)
    stops = stop.make(block.stop, pieces)
  return (compact if block.compact else decode).make_generate(
    model,
    max_new_tokens=config.max_response,
    sampling=common.make_sampling(config.sampling),
    eos_ids=tokenizer.eos_ids,
    pad_id=tokenizer.pad_id,
    stops=stops,
  )


def make_rollouts(
  s: common.Session, loaded: common.Loaded, size: int
) -> Callable[..., Iterator[tuple[np.ndarray, int, Rollout]]]:
  """rollouts(examples, row ids, key) -> batches of `size`, in order.

  Each is (places of its rows among the examples, how many of them count,
  rollout); the last batch is filled up with its last row. What a row samples
  depends on the key, its id and its prompt only. With several hosts all pass
  the same and get the same.
  """
  config, tokenizer = s.config, loaded.tokenizer
  generate = decode.make_generate(
    loaded.model,
    max_new_tokens=config.max_response,
    sampling=common.make_sampling(config.sampling),
    eos_ids=tokenizer.eos_ids,
    pad_id=tokenizer.pad_id,
  )

  def rollouts(examples: Sequence[Example], row_ids: Sequence[int], key: Key):
    ids = np.asarray(row_ids, np.int32)
    for at in range(0, len(examples), size):
      rows = np.minimum(np.arange(at, at + size), len(examples) - 1)
      asked = [examples[i] for i in rows]
      prompts = transforms.prompt_batch(
        asked, tokenizer, config.max_prompt, among=asked
      )
      prompts, numbers = sharding.shard_batch(
        (prompts, ids[rows]), s.mesh, whole=True
      )
      rollout = generate(loaded.params, prompts, key, numbers)
      yield rows, min(size, len(examples) - at), rollout

  return rollouts
