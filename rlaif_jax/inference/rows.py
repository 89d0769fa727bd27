"""Rollouts as the rows that a model reads.

A row is a prompt and its response or, where a group of responses was sampled
from one prompt, that prompt and several of them: a tree, in which each response
sees the prompt and itself (LanguageModel.apply's `ends`). What comes out is the
same, but the prompt is read once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.models import kernels
from rlaif_jax.models.config import ModelConfig


class Rows(NamedTuple):
  """N rows of G responses each, of B in all."""

  tokens: Int[Array, 'N T']
  seen: dict[str, Array]  # `mask` or `ends`, for LanguageModel.apply
  reads: Int[Array, 'N I']  # slots that the G * R response tokens come after
  last: Int[Array, 'N G']  # slots of the last token of each text


def join(config: ModelConfig, rollout: types.Rollout) -> Rows:
  """The rows in which a model of this config reads a rollout."""
  batch, new = rollout.response_tokens.shape
  length = rollout.prompt_tokens.shape[1]
  count = together(config, rollout)
  tokens = jnp.concatenate(
    [
      each_prompt(rollout.prompt_tokens, count),
      rollout.response_tokens.reshape(batch // count, -1),
    ],
    axis=1,
  )
  # The first of a response comes after the prompt, others after one another.
  starts = length + new * jnp.arange(count)[:, None]
  reads = starts - 1 + jnp.arange(new)[None]
  reads = reads.at[:, 0].set(length - 1)
  lengths = jnp.sum(rollout.response_mask, axis=1, dtype=jnp.int32)
  lengths = lengths.reshape(-1, count)
  last = jnp.where(lengths > 0, starts.T - 1 + lengths, length - 1)
  reads = jnp.broadcast_to(reads.reshape(1, -1), (len(tokens), count * new))
  prompt_real = each_prompt(rollout.prompt_mask, count)
  real = rollout.response_mask.reshape(len(tokens), -1)
  if count == 1:
    mask = jnp.concatenate([prompt_real, real], axis=1)
    return Rows(tokens, dict(mask=mask), reads, last)
  own = jnp.broadcast_to(starts + new, (count, new)).reshape(1, -1)
  ends = jnp.concatenate(
    [
      jnp.where(prompt_real, tokens.shape[1], 0),
      jnp.where(real, own, 0),
    ],
    axis=1,
  )
  return Rows(tokens, dict(ends=ends), reads, last)


def together(config: ModelConfig, rollout: types.Rollout) -> int:
  """How many responses of a group make a row.

  As many as take the least arithmetic: a shared prompt spares tokens, but each
  token is compared with all slots of its row. One where a kernel attends, which
  knows no trees, or where rows would not split over the mesh as before.
  """
  prompt, new = rollout.prompt_tokens.shape[1], rollout.response_tokens.shape[1]
  if rollout.group == 1 or kernels.choose(config, prompt + new) is not None:
    return 1

  def work(count: int) -> float:
    slots = prompt + count * new
    # Of a layer, for a token: 24 D^2 in kernels and 4 D a slot in attention.
    return slots * (6 * config.width + slots) / count

  counts = range(1, rollout.group + 1)
  return min((n for n in counts if divides(rollout, n)), key=work)


def divides(
  batch: types.Rollout | types.PromptBatch, count: int, parts: int = 1
) -> bool:
  """Whether groups fall into `count` rows each, and so do each device's rows.

  Also when the batch is taken in `parts`.
  """
  if count == 1:
    return True
  size = jax.tree.leaves(batch)[0].shape[0]
  whole = size % (count * parts * sharding.row_parts()) == 0
  return batch.group % count == 0 and whole


def each_prompt(x: Array, count: int) -> Array:
  """Of every `count` rows, which are the same, the first."""
  return x.reshape(-1, count, *x.shape[1:])[:, 0]


def apart(x: Float[Array, 'N I ...'], rollout: types.Rollout) -> Array:
  """What was read at `reads`, by response: [B, R, ...]."""
  return x.reshape(*rollout.response_tokens.shape, *x.shape[2:])
