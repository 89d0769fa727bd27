"""Decoding: prefill, then one while_loop that ends with the last row.

Prompts are left-padded, so that all rows write the same cache slot. A row's
sample depends on the key, its row id and its prompt, not on its batch.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from jaxtyping import Key as Keys

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.inference import rows, stop
from rlaif_jax.inference import sampling as sampling_lib
from rlaif_jax.inference.sampler import Sampler
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import LanguageModel
from rlaif_jax.models import cache as cache_lib


@dataclasses.dataclass(frozen=True)
class Options:
  """What is fixed when decoding is compiled; see `generate`."""

  max_new_tokens: int
  sampling: SamplingConfig
  eos_ids: tuple[int, ...]
  pad_id: int


class State(NamedTuple):
  """What one decoding step hands to the next."""

  step: Int[Array, '']  # tokens sampled so far
  token: Int[Array, ' B']  # the last one, not yet read by the model
  done: Bool[Array, ' B']
  place: Int[Array, ' B'] | None  # in the table of stop strings
  tokens: Int[Array, 'B R']
  mask: Bool[Array, 'B R']
  logprobs: Float[Array, 'B R']
  cache: types.Cache


def generate(
  model: LanguageModel,
  params: types.Params,
  prompts: types.PromptBatch,
  key: types.Key,
  *,
  max_new_tokens: int,
  sampling: SamplingConfig,
  eos_ids: tuple[int, ...],
  pad_id: int,
  row_ids: Int[Array, ' B'] | None = None,
  stops: stop.Table | None = None,
) -> types.Rollout:
  """Samples one response per prompt.

  Can be jitted with all but `params`, `prompts`, `key` and `row_ids` static;
  `make_generate` does so and spares memory.

  Args:
    model: the model.
    params: its parameters.
    prompts: B left-padded prompts. A row without a real token only fills the
      batch: it counts as finished and gets an empty response.
    key: token t of a row is drawn with fold_in(fold_in(key, row id), t).
    max_new_tokens: R.
    sampling: how tokens are chosen.
    eos_ids: tokens that end a response; they belong to it.
    pad_id: stands after the end.
    row_ids: [B] int32; default 0..B-1.
    stops: strings that end a response too, from `stop.make`.

  Returns:
    The rollout, right-padded with `pad_id`, log-prob 0 and mask False; the
    log-probs are those of the sampled distribution (`sampling.sample`).

  Raises:
    ValueError: `max_new_tokens` below 1.
  """
  logits, cache = prefill(model, params, prompts, max_new_tokens)
  row_keys = fold_rows(key, prompts.tokens.shape[0], row_ids)
  rollout, _ = decode(
    model,
    params,
    cache,
    logits,
    prompts,
    row_keys,
    stops,
    max_new_tokens=max_new_tokens,
    sampling=sampling,
    eos_ids=eos_ids,
    pad_id=pad_id,
  )
  return rollout


def make_generate(
  model: LanguageModel,
  *,
  max_new_tokens: int,
  sampling: SamplingConfig,
  eos_ids: tuple[int, ...],
  pad_id: int,
  stops: stop.Table | None = None,
) -> Sampler:
  """Compiled `generate(params, prompts, key, row_ids=None)`.

  Prefill and decode are two programs: the temporaries of prefill are gone
  before decoding starts, and the cache is donated to it. One compilation per
  shape and mesh.
  """
  first = jax.jit(functools.partial(_first_program, model, max_new_tokens))
  second = jax.jit(
    functools.partial(
      decode,
      max_new_tokens=max_new_tokens,
      sampling=sampling,
      eos_ids=tuple(eos_ids),
      pad_id=pad_id,
    ),
    static_argnums=0,
    donate_argnums=2,
  )

  def run(params, prompts, key, row_ids=None) -> types.Rollout:
    logits, cache, row_keys = first(params, prompts, key, row_ids)
    found = model.laid_out(params, prompts.tokens.shape[0])
    return second(*found, cache, logits, prompts, row_keys, stops)[0]

  return run


def prefill(
  model: LanguageModel,
  params: types.Params,
  prompts: types.PromptBatch,
  max_new_tokens: int,
) -> tuple[Float[Array, 'B V'], types.Cache]:
  """Reads the prompts, those of a group once.

  Returns:
    Float32 logits of the first new token, and a cache of P + max_new_tokens
    slots that holds the prompts.

  Raises:
    ValueError: `max_new_tokens` below 1.
  """
  if max_new_tokens < 1:
    raise ValueError(f'max_new_tokens={max_new_tokens} must be at least 1')
  group = prompts.group if rows.divides(prompts, prompts.group) else 1
  tokens, mask = (
    rows.each_prompt(x, group) for x in (prompts.tokens, prompts.mask)
  )
  batch, length = tokens.shape
  output = model.apply(
    params,
    tokens,
    mask=mask,
    cache=model.init_cache(batch, length + max_new_tokens),
    reads=jnp.full((batch, 1), length - 1),
    fresh=True,
  )
  logits, cache = output.logits[:, 0], model.step_cache(output.cache)
  if group > 1:
    logits = jnp.repeat(logits, group, axis=0)
    cache = cache_lib.repeat(model.config, cache, group, model.rules)
  return logits, cache


def decode(
  model: LanguageModel,
  params: types.Params,
  cache: types.Cache,
  logits: Float[Array, 'B V'],
  prompts: types.PromptBatch,
  row_keys: Keys[Array, ' B'],
  stops: stop.Table | None = None,
  *,
  max_new_tokens: int,
  sampling: SamplingConfig,
  eos_ids: tuple[int, ...],
  pad_id: int,
) -> tuple[types.Rollout, types.Cache]:
  """Samples until every row is done; see `generate`.

  Args:
    model: the model, or that of `LanguageModel.laid_out`.
    params: its parameters.
    cache: as `prefill` gives it.
    logits: as `prefill` gives them.
    prompts: become part of the rollout.
    row_keys: one per row.
    stops: strings that end a response, or None.
    max_new_tokens: R.
    sampling: how tokens are chosen.
    eos_ids: tokens that end a response.
    pad_id: stands after the end.

  Returns:
    The rollout, and the cache, which is returned so that a donated one is
    updated in place; its index is P + the number of decoding steps.
  """
  options = Options(max_new_tokens, sampling, eos_ids, pad_id)
  state = start(cache, logits, prompts, row_keys, stops, options)
  state = advance(model, params, state, row_keys, stops, options)
  return rollout_of(prompts, state), state.cache


def start(
  cache: types.Cache,
  logits: Float[Array, 'B V'],
  prompts: types.PromptBatch,
  row_keys: Keys[Array, ' B'],
  stops: stop.Table | None,
  options: Options,
) -> State:
  """The first token of each row; rows that only fill the batch are done."""
  batch = prompts.tokens.shape[0]

  def buffer(value, dtype):
    full = jnp.full((batch, options.max_new_tokens), value, dtype)
    return sharding.constrain(full, 'batch', None)

  state = State(
    step=jnp.zeros((), jnp.int32),
    token=jnp.full((batch,), options.pad_id, jnp.int32),
    done=~jnp.any(prompts.mask, axis=-1),
    place=None if stops is None else jnp.zeros((batch,), jnp.int32),
    tokens=buffer(options.pad_id, jnp.int32),
    mask=buffer(False, bool),
    logprobs=buffer(0.0, jnp.float32),
    cache=cache,
  )
  return _emit(state, logits, row_keys, stops, options)


def advance(
  model: LanguageModel,
  params: types.Params,
  state: State,
  row_keys: Keys[Array, ' B'],
  stops: stop.Table | None,
  options: Options,
  *,
  fewest: int = 0,
) -> State:
  """Decodes on, as long as more than `fewest` rows are not done.

  `model` and `params` may be those of `LanguageModel.laid_out`.
  """
  rows = state.token.shape[0]
  params = model.step_params(params, rows)
  model = model.for_steps(rows)

  def body(state: State) -> State:
    output = model.apply(
      params,
      state.token[:, None],
      mask=~state.done[:, None],
      cache=state.cache,
      logits=False,
    )
    state = state._replace(cache=output.cache)
    logits = model.unembed(params, output.hidden)[:, 0]
    return _emit(state, logits, row_keys, stops, options)

  def goes_on(state: State) -> Bool[Array, '']:
    open_rows = jnp.sum(~state.done, dtype=jnp.int32)
    return (state.step < options.max_new_tokens) & (open_rows > fewest)

  return jax.lax.while_loop(goes_on, body, state)


def rollout_of(prompts: types.PromptBatch, state: State) -> types.Rollout:
  """What a state holds, with its prompts."""
  return types.Rollout(
    prompt_tokens=prompts.tokens,
    prompt_mask=prompts.mask,
    response_tokens=state.tokens,
    response_mask=state.mask,
    logprobs=state.logprobs,
    group=prompts.group,
  )


def fold_rows(
  key: types.Key, batch: int, row_ids: Int[Array, ' B'] | None = None
) -> Keys[Array, ' B']:
  """One key per row: fold_in(key, row id); ids default to 0..batch-1."""
  if row_ids is None:
    row_ids = jnp.arange(batch, dtype=jnp.int32)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids)


def _first_program(model, max_new_tokens, params, prompts, key, row_ids):
  logits, cache = prefill(model, params, prompts, max_new_tokens)
  return logits, cache, fold_rows(key, prompts.tokens.shape[0], row_ids)


def _emit(
  state: State,
  logits: Float[Array, 'B V'],
  row_keys: Keys[Array, ' B'],
  stops: stop.Table | None,
  options: Options,
) -> State:
  """Samples one token of each row that is not done."""
  keys = jax.vmap(jax.random.fold_in, (0, None))(row_keys, state.step)
  token, logprob = sampling_lib.sample(logits, keys, options.sampling)
  real = ~state.done
  token = jnp.where(real, token, options.pad_id)
  logprob = jnp.where(real, logprob, 0.0)
  done, place = state.done | _is_one_of(token, options.eos_ids), state.place
  if stops is not None:
    place = stops.follow(place, token)
    done |= stops.found(place)
  return state._replace(
    step=state.step + 1,
    token=token,
    done=done,
    place=place,
    tokens=_put(state.tokens, token, state.step),
    mask=_put(state.mask, real, state.step),
    logprobs=_put(state.logprobs, logprob, state.step),
  )


def _is_one_of(
  tokens: Int[Array, ' B'], ids: tuple[int, ...]
) -> Bool[Array, ' B']:
  found = jnp.zeros(tokens.shape, bool)
  for token_id in ids:
    found |= tokens == token_id
  return found


def _put(buffer, column, step):
  """`buffer` [B, R] with column `step` replaced."""
  return jax.lax.dynamic_update_slice_in_dim(
    buffer, column[:, None].astype(buffer.dtype), step, axis=1
  )
