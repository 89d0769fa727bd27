"""Decoding whose finished rows leave the batch, so that none holds the others.

The loop of `decode.advance` ends as soon as the rows that are left fit a batch
of the next smaller power of two; they move there, with their part of the cache,
and the loop goes on. A batch of B has at most log2(B) + 1 programs and the host
looks at it as often, once for each. Tokens are those of the plain loop: what a
row samples depends on its key, not on its batch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.inference import decode, stop
from rlaif_jax.inference.sampler import Sampler
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import LanguageModel
from rlaif_jax.models import cache as cache_lib


class _Found(NamedTuple):
  """Responses of the whole batch."""

  tokens: Int[Array, 'B R']
  mask: Bool[Array, 'B R']
  logprobs: Float[Array, 'B R']


def make_generate(
  model: LanguageModel,
  *,
  max_new_tokens: int,
  sampling: SamplingConfig,
  eos_ids: tuple[int, ...],
  pad_id: int,
  stops: stop.Table | None = None,
) -> Sampler:
  """As `decode.make_generate`; worth it where lengths differ much.

  While rows move there are two caches, the new one for fewer rows. The batch is
  never cut below one row for each part of the mesh that splits it.
  """
  options = decode.Options(max_new_tokens, sampling, tuple(eos_ids), pad_id)
  first = jax.jit(functools.partial(_first, model, options))
  go_on = jax.jit(
    functools.partial(decode.advance, options=options),
    static_argnums=0,
    static_argnames='fewest',
    donate_argnums=2,
  )
  shrink = jax.jit(functools.partial(_shrink, model), static_argnums=0)

  def run(params, prompts, key, row_ids=None) -> types.Rollout:
    state, row_keys = first(params, prompts, key, row_ids, stops)
    found, rows, laid = None, None, (None, None)
    while True:
      size = state.token.shape[0]
      fewest = _below(size)
      if model.for_steps(size) != laid[0]:
        laid = model.laid_out(params, size)
      state = go_on(*laid, state, row_keys, stops, fewest=fewest)
      left = _open_rows(state, max_new_tokens)
      if not left:
        return _finish(prompts, found, rows, state)
      while left <= _below(fewest):
        fewest = _below(fewest)
      found, rows, state, row_keys = shrink(
        fewest, found, rows, state, row_keys
      )

  return run


def _first(model, options, params, prompts, key, row_ids, stops):
  """Prefill and the first token: (state, keys of the rows)."""
  logits, cache = decode.prefill(model, params, prompts, options.max_new_tokens)
  row_keys = decode.fold_rows(key, prompts.tokens.shape[0], row_ids)
  state = decode.start(cache, logits, prompts, row_keys, stops, options)
  return state, row_keys


def _below(size: int) -> int:
  """The next smaller batch: a power of two that the mesh divides, or 0."""
  smaller = sharding.row_parts()
  while smaller * 2 < size:
    smaller *= 2
  return smaller if smaller < size else 0


def _open_rows(state: decode.State, max_new_tokens: int) -> int:
  """Rows that are still to go on; waits for the device."""
  left, step = jax.device_get((_count(state.done), state.step))
  return 0 if step >= max_new_tokens else int(left)


@jax.jit
def _count(done):
  return jnp.sum(~done, dtype=jnp.int32)


def _shrink(model, size, found, rows, state, row_keys):
  """Moves the open rows, and done ones to fill up, to a batch of `size`."""
  found, rows = _merged(found, rows, state)
  order = jnp.argsort(state.done, stable=True)[:size]

  def take(x):
    axes = [None] * (x.ndim - 1)
    return sharding.constrain(x[order], 'batch', *axes)

  smaller = state._replace(
    cache=cache_lib.take(model.config, state.cache, order, model.rules),
    **{
      name: None if value is None else take(value)
      for name, value in state._asdict().items()
      if name not in ('step', 'cache')
    },
  )
  return found, take(rows), smaller, row_keys[order]


def _merged(found, rows, state: decode.State):
  """(responses of the whole batch, number of each row of `state` in it)."""
  new = _Found(state.tokens, state.mask, state.logprobs)
  if found is None:
    return new, jnp.arange(state.token.shape[0], dtype=jnp.int32)
  return jax.tree.map(lambda x, y: x.at[rows].set(y), found, new), rows


@jax.jit
def _finish(prompts, found, rows, state) -> types.Rollout:
  found, _ = _merged(found, rows, state)
  return decode.rollout_of(prompts, state._replace(**found._asdict()))
