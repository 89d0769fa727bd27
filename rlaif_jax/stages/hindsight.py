"""Hindsight instruction relabelling: SFT that tells instructions apart.

Zhang et al. 2023 (HIR, arXiv 2302.05206). Rows come from a sample stage with
`instructions`: each response o has the prompt that asks for what o turned out
to be, and `other_prompts` that ask for something else. For the K prompts p_k,
of which p_0 is the right one,

  loss = L_sup + contrast L_con - entropy H

  L_sup  cross-entropy of o after p_0, with smoothed labels
  L_con  cross-entropy of softmax_k(m_k) against (1 - smoothing) at p_0 and the
         rest shared by the others, m_k the mean token log-probability of o
         after p_k
  H      mean entropy of what is predicted after p_0, in nats

all of them means over a row's tokens and then over rows, as the authors' own
training code has them, whose weights are the defaults. They also learn from
parts of a response, which we do not. Everything else is the SFT stage's.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from rlaif_jax.core import logprobs, masking
from rlaif_jax.core.types import TokenBatch
from rlaif_jax.data.datasets import Example
from rlaif_jax.stages import common, sft


def default_config() -> ConfigDict:
  """SFT's, with the weights of HIR; the data are those of a sample stage."""
  c = sft.default_config()
  c.stage = 'hindsight'
  c.data = common.data_config('jsonl', 'all')
  c.optimizer = common.optimizer_config(5e-4, 'adamw')
  c.optimizer.schedule = 'constant'
  c.num_epochs, c.batch_size = 10, 64
  c.overlong_response, c.loss_mean = 'truncate', 'row'
  c.contrast = 1.0  # weight of telling the instructions apart
  c.entropy = 0.001  # weight of the entropy, which is rewarded
  # Of labels: of tokens, and of instructions. Theirs, for greedy decoding; a
  # policy that is sampled from wants less.
  c.smoothing = 0.2
  return c


def run(config: ConfigDict, workdir) -> None:
  """Trains `config.model` on relabelled samples; leaves `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    check(config)
    loaded = common.load_policy(config.model, s)
    train, valid = sft.load_rows(config, loaded)
    check_others(train, loaded.tokenizer, config)
    sft.fit(s, loaded, train, valid, make_objective(config, loaded))


def check(config: ConfigDict) -> None:
  """Raises ValueError for a weight or share that cannot be."""
  for key in ('contrast', 'entropy'):
    if not config[key] >= 0:
      raise ValueError(f'config.{key}={config[key]}; it must be at least 0')
  if not 0 <= config.smoothing < 1:
    raise ValueError(
      f'config.smoothing={config.smoothing} is no share in [0, 1)'
    )
  if config.prompt_loss:
    raise ValueError(
      f'config.prompt_loss={config.prompt_loss}: hindsight learns responses '
      'alone; leave it at 0'
    )


def check_others(
  rows: Sequence[Example], tokenizer, config: ConfigDict
) -> None:
  """Raises ValueError for a row without, or with too long, other prompts."""
  source, count = common.source(config.data), None
  for row in rows:
    others = row.meta.get('other_prompts')
    if not others or (count is not None and len(others) != count):
      raise ValueError(
        f'{source}: row {row.id}: other_prompts should be as many prompts as '
        f'in other rows, at least one, but is {others!r}; make the rows by a '
        'sample stage with config.instructions'
      )
    count = len(others)
  texts = [text for row in rows for text in row.meta['other_prompts']]
  for i, ids in enumerate(tokenizer.encode_batch(texts)):
    if len(ids) > config.max_prompt:
      raise ValueError(
        f'{source}: row {rows[i // count].id}: one of other_prompts has '
        f'{len(ids)} tokens, more than max_prompt={config.max_prompt}; raise it'
      )


def make_objective(config: ConfigDict, loaded: common.Loaded) -> sft.Objective:
  """The module's loss, on batches whose leaves are [B, K, T]."""
  plain = sft.plain_objective(config, loaded)

  def asked(rows: Sequence[Example]) -> list[Example]:
    return [
      dataclasses.replace(row, prompt=prompt)
      for row in rows
      for prompt in (row.prompt, *row.meta['other_prompts'])
    ]

  def batch(rows: Sequence[Example], among: Sequence[Example]) -> TokenBatch:
    found = plain.batch(asked(rows), asked(among))
    return jax.tree.map(lambda x: x.reshape(len(rows), -1, x.shape[-1]), found)

  return sft.Objective(make_loss(config, loaded.model), batch)


def make_loss(config: ConfigDict, model):
  """loss(params, TokenBatch [B, K, T], key) -> (scalar, metrics)."""

  def loss_fn(params, batch: TokenBatch, key):
    del key  # no dropout
    rows, count, length = batch.tokens.shape
    flat = jax.tree.map(lambda x: x.reshape(-1, length), batch)
    slots, targets, real = sft.response_window(flat, config.max_response)
    hidden = model.apply(
      params, flat.tokens, mask=flat.mask, logits=False, reads=slots
    ).hidden

    def stats(hidden, targets, real, **options):
      """Means of each row."""
      found = logprobs.token_stats(
        hidden, targets, lambda h: model.unembed(params, h), **options
      )
      return jax.tree.map(
        lambda x: masking.masked_mean(x, real, axis=-1), found
      )

    first = jax.tree.map(lambda x: x[::count], (hidden, targets, real))
    smooth = stats(*first, entropy=True, smoothing=config.smoothing)
    means = stats(hidden, targets, real).logprobs.reshape(rows, count)
    there = jnp.any(first[2], axis=-1)  # rows that only fill have nothing
    supervised, contrast, entropy = (
      masking.masked_mean(x, there)
      for x in (
        -smooth.logprobs,
        instruction_loss(means, config.smoothing),
        smooth.entropy,
      )
    )
    loss = supervised + config.contrast * contrast - config.entropy * entropy
    return loss, {
      'loss/sft': supervised,
      'loss/contrast': contrast,
      'policy/entropy_avg': entropy,
      'weight': there.sum().astype(jnp.float32),
    }

  return loss_fn


def instruction_loss(
  means: Float[Array, 'B K'], smoothing: float
) -> Float[Array, ' B']:
  """Cross-entropy of softmax(means) against mostly the first of K."""
  found = jax.nn.log_softmax(means, axis=-1)
  others = found[:, 1:].mean(-1)
  return -((1 - smoothing) * found[:, 0] + smoothing * others)
