"""The shared frozen pytrees, and the one axis legend.

Axis letters, here and in every shape, annotation and einsum:

  B rows              T tokens            P prompt tokens     R response tokens
  V vocabulary        D width             L layers            S cache slots
  H query heads       K key/value heads   G = H // K          C one chunk of T
  N label strings     M tokens of one label string

Masks are bool and True marks a real token. Batches may hold NumPy arrays
until they are placed on a mesh.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

Params = Any  # a nested dict of arrays
Key = PRNGKeyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of the tokens seen so far.

  `keys` and `values` lead with L; the other axes (B, S, K, head size) are in
  the order that the platform likes, and only the model looks inside. Between
  decoding steps they may be tuples, of a buffer without L for each layer.
  """

  keys: jax.Array  # [L, ...] float
  values: jax.Array  # [L, ...] float
  mask: jax.Array  # [B, S] bool; True = the slot holds a real token
  index: jax.Array  # [] int32; the next slot to write, the same for every row


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelOutput:
  """What one forward pass gives back."""

  logits: jax.Array | None  # [B, T, V] float32; None if not asked for
  hidden: jax.Array  # [B, T, D] float; after the final norm
  cache: Cache | None  # None when the call had none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenBatch:
  """Right-padded sequences to learn by next-token prediction."""

  tokens: jax.Array  # [B, T] int32
  mask: jax.Array  # [B, T] bool
  loss_mask: jax.Array  # [B, T] bool; True = this token is a target to learn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptBatch:
  """Left-padded prompts, so that every row's next token is at slot P.

  Every `group` rows beside each other are the same prompt.
  """

  tokens: jax.Array  # [B, P] int32
  mask: jax.Array  # [B, P] bool
  group: int = dataclasses.field(default=1, metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairBatch:
  """Two right-padded texts (prompt and response) and which is preferred."""

  tokens_1: jax.Array  # [B, T] int32
  mask_1: jax.Array  # [B, T] bool
  tokens_2: jax.Array  # [B, T] int32
  mask_2: jax.Array  # [B, T] bool
  p_first: jax.Array  # [B] float32; probability that text 1 is the better one
  weight: jax.Array  # [B] float32; 0 for a row that only fills the batch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rollout:
  """Prompts and what the policy sampled for them.

  Every `group` rows beside each other have the same prompt; whoever takes rows
  apart sets it to 1.
  """

  prompt_tokens: jax.Array  # [B, P] int32; left-padded
  prompt_mask: jax.Array  # [B, P] bool
  response_tokens: jax.Array  # [B, R] int32; right-padded
  response_mask: jax.Array  # [B, R] bool; EOS, if any, is real
  logprobs: jax.Array  # [B, R] float32, under what was sampled from
  group: int = dataclasses.field(default=1, metadata=dict(static=True))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
  """What policy and value are moved towards; 0 at padding."""

  advantages: jax.Array  # [B, R] float32
  returns: jax.Array  # [B, R] float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenStats:
  """Per-token statistics of a model's predictions, float32."""

  logprobs: jax.Array  # [B, T] float32; log-probability of the target, nats
  entropy: jax.Array | None  # [B, T] float32; nats; None if not asked for
