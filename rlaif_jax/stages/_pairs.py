"""Which pairs are labelled: the data set's own, or samples of a policy."""

import dataclasses
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from rlaif_jax.data.datasets import Example
from rlaif_jax.rewards.reward_model import decode_responses
from rlaif_jax.stages import _sampler, common


def make_pairs(s: common.Session, examples: Sequence[Example]):
  """(rows to label, pairs([(number, row)]) -> rows with `pair` set).

  Raises:
    ValueError: a row of the data set without two different responses, or
      whose prompt is too long to sample from; names the row.
  """
  config = s.config
  if config.pairs == 'dataset':
    for example in examples:
      check_pair(example, common.source(config.data))
    return examples, lambda rows: [e for _, e in rows]
  if config.pairs != 'samples':
    raise ValueError(f"config.pairs={config.pairs!r}; use 'dataset', 'samples'")
  loaded = common.load_policy(config.policy, s)
  common.check_context(
    loaded.model, max_prompt=config.max_prompt, max_response=config.max_response
  )
  examples = common.fit_prompts(
    examples,
    loaded.tokenizer,
    config.max_prompt,
    config.data.overflow,
    common.source(config.data),
  )
  sample = make_sampler(s, config, loaded)
  keys = jax.random.split(jax.random.key(config.seed))

  def pairs(rows):
    numbers, prompts = zip(*rows, strict=True)
    first, second = (sample(prompts, numbers, key) for key in keys)
    return [
      dataclasses.replace(e, pair=(a, b), p_first=None)
      for e, a, b in zip(prompts, first, second, strict=True)
    ]

  return examples, pairs


def make_sampler(s: common.Session, config: ConfigDict, loaded: common.Loaded):
  """sample(examples, row ids, key) -> response texts, in fixed-size batches.

  A row's text depends on the key and its row id only, so a restart that
  samples the rest of a chunk gets what the first run would have got.
  """
  rollouts = _sampler.make_rollouts(s, loaded, config.labeler.batch_size)

  def sample(examples: Sequence[Example], row_ids, key) -> list[str]:
    texts = []
    for _, count, rollout in rollouts(examples, row_ids, key):
      texts += decode_responses(rollout, loaded.tokenizer)[:count]
    return texts

  return sample


def check_pair(example: Example, source: str) -> None:
  """Raises ValueError for a row without two different responses."""
  if example.pair is None:
    raise ValueError(
      f'{source}: row {example.id} has no pair of responses to compare; set '
      "config.pairs to 'samples' or use a data set with pairs"
    )
  if example.pair[0] == example.pair[1]:
    raise ValueError(
      f'{source}: row {example.id}: its responses are identical, so neither '
      'can be preferred; remove this row'
    )
