"""Log-probabilities of tokens: the one path from hidden states to them.

The sequence is cut into chunks and each chunk's logits are recomputed in the
backward pass, so memory holds [B, C, V] and never the full [B, T, V].
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import types

Unembed = Callable[[Float[Array, '... D']], Float[Array, '... V']]


def token_stats(
  hidden: Float[Array, 'B T D'],
  targets: Int[Array, 'B T'],
  unembed: Unembed,
  *,
  temperature: float | Float[Array, ''] = 1.0,
  chunk_size: int = 128,
  entropy: bool = False,
  smoothing: float = 0.0,
) -> types.TokenStats:
  """Log-probability of each target (and entropy) under softmax(logits / T).

  `hidden[:, t]` predicts `targets[:, t]`: callers shift, or use
  `next_token_stats`. Gradients flow to `hidden` and to what `unembed` closes
  over.

  Args:
    hidden: final hidden states, any float type.
    targets: token ids, each in [0, V).
    unembed: hidden states to logits.
    temperature: divides the logits, in float32; may be traced.
    chunk_size: tokens of each row whose logits exist at one time.
    entropy: also give the entropy of each prediction.
    smoothing: label smoothing: this share of a log-probability is the mean of
      those of all V tokens.

  Returns:
    Float32 log-probabilities [B, T], and entropy [B, T] or None, in nats.

  Raises:
    ValueError: if `chunk_size` or a fixed `temperature` is not positive.
  """
  if chunk_size < 1:
    raise ValueError(f'chunk_size must be at least 1, got {chunk_size}.')
  if isinstance(temperature, int | float) and temperature <= 0:
    raise ValueError(
      f'temperature must be above 0, got {temperature}; greedy decoding has '
      'no distribution to score, use 1.0 for the plain one.'
    )
  length = targets.shape[1]
  chunk = max(min(chunk_size, length), 1)

  # Logits live only inside this body, forward and backward. The scan keeps
  # the body from being merged, hence prevent_cse=False.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def body(
    carry: None, xs: tuple[Array, Array]
  ) -> tuple[None, types.TokenStats]:
    logits = unembed(xs[0]).astype(jnp.float32) / temperature
    return carry, _chunk_stats(logits, xs[1], entropy, smoothing)

  xs = _to_chunks(hidden, chunk), _to_chunks(targets, chunk)
  _, stats = jax.lax.scan(body, None, xs)
  return jax.tree.map(lambda x: _from_chunks(x, length), stats)


def next_token_stats(
  hidden: Float[Array, 'B T D'],
  tokens: Int[Array, 'B T'],
  mask: Bool[Array, 'B T'],
  unembed: Unembed,
  *,
  temperature: float | Float[Array, ''] = 1.0,
  chunk_size: int = 128,
  entropy: bool = False,
) -> types.TokenStats:
  """`token_stats` of each next token: column t is about `tokens[:, t + 1]`.

  Columns where that token, or the one it is predicted from, is padding hold 0.

  Returns:
    TokenStats of shape [B, T - 1].
  """
  stats = token_stats(
    hidden[:, :-1],
    tokens[:, 1:],
    unembed,
    temperature=temperature,
    chunk_size=chunk_size,
    entropy=entropy,
  )
  real = mask[:, :-1] & mask[:, 1:]
  return jax.tree.map(lambda x: jnp.where(real, x, 0.0), stats)


def label_distribution(
  logprobs: Float[Array, 'B N'],
) -> Float[Array, 'B N']:
  """Probabilities renormalised over the N labels; one must be finite."""
  return jax.nn.softmax(logprobs.astype(jnp.float32), axis=-1)


def _chunk_stats(
  logits: Float[Array, 'B C V'],
  targets: Int[Array, 'B C'],
  entropy: bool,
  smoothing: float,
) -> types.TokenStats:
  """Statistics of one chunk of float32 logits."""
  log_z = jax.nn.logsumexp(logits, axis=-1)
  # A masked sum and not a gather: it fuses, its gradient is no scatter, and a
  # vocabulary that is sharded stays sharded.
  ids = jax.lax.broadcasted_iota(targets.dtype, logits.shape, 2)
  is_target = ids == targets[..., None]
  chosen = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
  if smoothing:
    chosen += smoothing * (jnp.mean(logits, axis=-1) - chosen)
  if not entropy:
    return types.TokenStats(logprobs=chosen - log_z, entropy=None)
  # Where a model bans a token its logit is -inf and 0 * -inf would be NaN.
  finite = jnp.where(jnp.isneginf(logits), 0.0, logits)
  probs = jnp.exp(logits - log_z[..., None])
  return types.TokenStats(
    logprobs=chosen - log_z,
    entropy=log_z - jnp.sum(probs * finite, axis=-1),
  )


def _to_chunks(x: Array, chunk: int) -> Array:
  """[B, T, ...] -> [T / C, B, C, ...], T padded with zeros to a multiple."""
  batch, length, *rest = x.shape
  count = -(-length // chunk)
  widths = [(0, 0), (0, count * chunk - length)] + [(0, 0)] * len(rest)
  x = jnp.pad(x, widths).reshape(batch, count, chunk, *rest)
  return jnp.moveaxis(x, 1, 0)


def _from_chunks(x: Array, length: int) -> Array:
  """[T / C, B, C] -> [B, T], without what was padded."""
  count, batch, chunk = x.shape
  return jnp.moveaxis(x, 0, 1).reshape(batch, count * chunk)[:, :length]
