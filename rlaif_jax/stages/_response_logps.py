"""What a policy gives whole responses: of one text a row, or of two."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import logprobs, masking, trees
from rlaif_jax.core.types import Params, TokenBatch
from rlaif_jax.stages import sft


def pair_logps(
  model,
  params: Params,
  first: TokenBatch,
  second: TokenBatch,
  max_response: int,
) -> tuple[list[Float[Array, ' B']], list[Float[Array, ' B']]]:
  """(log-probabilities, numbers of tokens) of both responses to each prompt.

  The prompt is read once.
  """
  texts = (first.tokens, first.mask, second.tokens, second.mask)
  tree = trees.join_pairs(*texts, first.tokens.shape[1] + max_response)
  hidden = model.apply(params, tree.tokens, ends=tree.ends, logits=False).hidden
  places, targets, real = zip(
    *(
      _windows(text, slots, max_response)
      for text, slots in ((first, tree.slots_1), (second, tree.slots_2))
    ),
    strict=True,
  )
  # Side by side, so that rows stay on the devices where they are.
  stats = _stats(model, params, hidden, *map(_beside, (places, targets)))
  sums = [
    masking.masked_sum(part, mask, axis=-1)
    for part, mask in zip(jnp.split(stats, 2, axis=1), real, strict=True)
  ]
  return sums, [jnp.sum(mask, axis=-1, dtype=jnp.float32) for mask in real]


def response_logps(
  model, params: Params, batch: TokenBatch, max_response: int
) -> Float[Array, ' B']:
  """Log-probability of each row's response."""
  hidden = model.apply(
    params, batch.tokens, mask=batch.mask, logits=False
  ).hidden
  slots = jnp.broadcast_to(
    jnp.arange(batch.tokens.shape[1])[None], batch.tokens.shape
  )
  places, targets, real = _windows(batch, slots, max_response)
  stats = _stats(model, params, hidden, places, targets)
  return masking.masked_sum(stats, real, axis=-1)


def _windows(text: TokenBatch, slots, max_response: int):
  """(slots that predict the response, its tokens, which are real), [B, R]."""
  real = text.loss_mask[:, 1:]
  columns = sft.response_columns(real, max_response)
  return (
    jnp.take_along_axis(slots[:, :-1], columns, axis=1),
    jnp.take_along_axis(text.tokens[:, 1:], columns, axis=1),
    jnp.take_along_axis(real, columns, axis=1),
  )


def _stats(model, params: Params, hidden, places, targets):
  """Log-probs [B, N] of `targets`; only what predicts them is unembedded."""
  hidden = jnp.take_along_axis(hidden, places[..., None], axis=1)
  return logprobs.token_stats(
    hidden, targets, lambda h: model.unembed(params, h)
  ).logprobs


def _beside(parts):
  return jnp.concatenate(parts, axis=1)
