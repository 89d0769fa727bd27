"""What a policy gives whole responses: of one text a row, or of two."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlaif_jax.core import logprobs, masking, trees
from rlaif_jax.core.types import Params, TokenBatch
from rlaif_jax.models import sight
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
  slots, targets, real = zip(
    *(sft.response_window(text, max_response) for text in (first, second)),
    strict=True,
  )
  places = [
    sight.take(place, slot)
    for place, slot in zip((tree.slots_1, tree.slots_2), slots, strict=True)
  ]
  # Side by side, so that rows stay on the devices where they are.
  places, targets = (jnp.concatenate(x, axis=1) for x in (places, targets))
  stats = _stats(model, params, targets, places, tree.tokens, ends=tree.ends)
  sums = [
    masking.masked_sum(part, mask, axis=-1)
    for part, mask in zip(jnp.split(stats, 2, axis=1), real, strict=True)
  ]
  return sums, [jnp.sum(mask, axis=-1, dtype=jnp.float32) for mask in real]


def response_logps(
  model, params: Params, batch: TokenBatch, max_response: int
) -> Float[Array, ' B']:
  """Log-probability of each row's response."""
  slots, targets, real = sft.response_window(batch, max_response)
  stats = _stats(model, params, targets, slots, batch.tokens, mask=batch.mask)
  return masking.masked_sum(stats, real, axis=-1)


def _stats(model, params: Params, targets, reads, tokens, **seen):
  """Log-probs [B, N] of `targets`, each predicted from a slot of `tokens`."""
  hidden = model.apply(params, tokens, logits=False, reads=reads, **seen).hidden
  return logprobs.token_stats(
    hidden, targets, lambda h: model.unembed(params, h)
  ).logprobs
