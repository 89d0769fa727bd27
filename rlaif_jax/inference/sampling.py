"""Choosing the next token."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

_BLOCK = 128  # tokens that are drawn from together


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  """How tokens are chosen; hashable, for use as a static argument.

  Attributes:
    temperature: divides the logits; above 0.
    top_k: keep the k likeliest tokens only; 0 keeps all.
    top_p: then keep the fewest of them whose probability, renormalised,
      reaches this; 1 keeps all.
    greedy: take the likeliest token; the other fields mean nothing then.

  Raises:
    ValueError: a value out of range.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  greedy: bool = False

  def __post_init__(self):
    if not self.greedy and self.temperature <= 0:
      raise ValueError(
        f'sampling: temperature={self.temperature} must be above 0; for the '
        'likeliest token set greedy=True'
      )
    if self.top_k < 0:
      raise ValueError(f'sampling: top_k={self.top_k} must be 0 (off) or more')
    if not 0 < self.top_p <= 1:
      raise ValueError(f'sampling: top_p={self.top_p} must be in (0, 1]')


def sample(
  logits: Float[Array, 'B V'], keys: Key[Array, ' B'], config: SamplingConfig
) -> tuple[Int[Array, ' B'], Float[Array, ' B']]:
  """Draws one token per row, each with its own key.

  Args:
    logits: of the next token, any float type.
    keys: one per row.
    config: how to choose.

  Returns:
    Tokens (int32) and their float32 log-probabilities under the distribution
    they were drawn from: softmax(logits / temperature), renormalised over what
    top-k and top-p keep. Greedy tokens get theirs at temperature 1.
  """
  logits = logits.astype(jnp.float32)
  if not config.greedy:
    logits = keep_likeliest(
      logits / config.temperature, config.top_k, config.top_p
    )
  logits -= jnp.max(logits, axis=-1, keepdims=True)
  weights = jnp.exp(logits)
  tokens = _argmax(logits) if config.greedy else _draw(keys, weights)
  chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
  return tokens, chosen - jnp.log(jnp.sum(weights, axis=-1))


def _draw(
  keys: Key[Array, ' B'], weights: Float[Array, 'B V']
) -> Int[Array, ' B']:
  """One index per row, as likely as its weight says.

  First a block of indices, then one in it: that takes two random numbers a row,
  where noise for each index would cost more than the rest of sampling. Weights
  that differ by rounding alone give another index about as rarely as rounding
  times the number of blocks says.
  """
  rows, size = weights.shape
  count = -(-size // _BLOCK)
  blocks = jnp.pad(weights, ((0, 0), (0, count * _BLOCK - size)))
  blocks = blocks.reshape(rows, count, _BLOCK)
  numbers = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
  block = _reached(jnp.sum(blocks, axis=-1), numbers[:, 0])
  # A sum, not a gather: with the vocabulary split, each device has its share.
  here = block[:, None] == jnp.arange(count)[None]
  inside = jnp.sum(jnp.where(here[:, :, None], blocks, 0.0), axis=1)
  return block * _BLOCK + _reached(inside, numbers[:, 1])


def _reached(
  weights: Float[Array, 'B N'], share: Float[Array, ' B']
) -> Int[Array, ' B']:
  """Where the sum of weights passes a share in [0, 1) of all; never at a 0."""
  sums = jnp.cumsum(weights, axis=-1)
  whole = sums[:, -1]
  mark = jnp.minimum(share * whole, jnp.nextafter(whole, 0.0))
  return jnp.sum(sums <= mark[:, None], axis=-1, dtype=jnp.int32)


def _argmax(x: Float[Array, 'B V']) -> Int[Array, ' B']:
  """Index of each row's first largest value.

  Two reductions that XLA for CPU turns into vector code, which it does not do
  with jnp.argmax: with what it fuses a third of the time.
  """
  best = jnp.max(x, axis=-1, keepdims=True)
  ids = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
  return jnp.min(jnp.where(x == best, ids, x.shape[-1] - 1), axis=-1)


def keep_likeliest(
  logits: Float[Array, 'B V'], top_k: int = 0, top_p: float = 1.0
) -> Float[Array, 'B V']:
  """Logits with -inf at tokens that top-k, and then top-p, leave out.

  Tokens that tie with the last one kept are kept too.
  """
  size = logits.shape[-1]
  if not 0 < top_k < size and top_p >= 1:
    return logits
  best, _ = jax.lax.top_k(logits, min(top_k, size) or size)
  # A token stays while those before it do not yet reach top_p, so that at
  # least one does.
  probs = jax.nn.softmax(best, axis=-1)
  before = jnp.cumsum(probs, axis=-1) - probs
  stays = before < top_p if top_p < 1 else jnp.ones(best.shape, bool)
  floor = jnp.min(jnp.where(stays, best, jnp.inf), axis=-1, keepdims=True)
  return jnp.where(logits >= floor, logits, -jnp.inf)
