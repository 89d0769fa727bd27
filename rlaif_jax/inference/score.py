"""Scoring given text: label strings after a prompt, and whole responses.

Label strings are scored as strings: "10" may be two tokens, and the
probability of "1" must not contain that of "10".
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax.core import logprobs as logprobs_lib
from rlaif_jax.core import masking, types
from rlaif_jax.inference import rows
from rlaif_jax.models import LanguageModel

# -- label strings ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LabelTokens:
  """Where labels begin in token space, after some prompt.

  A vocabulary may merge the end of the prompt with a label ('=1' as one
  token), so the prompt gives up its last tokens to the labels.

  Attributes:
    drop: tokens to take off the end of the encoded prompt.
    tokens: of each label from there on; the prompt's rest included.
  """

  drop: int
  tokens: tuple[tuple[int, ...], ...]


def labels_to_tokens(
  encode: Callable[[str], Sequence[int]], ending: str, labels: Sequence[str]
) -> LabelTokens:
  """Tokens of labels at the true boundary, found by encoding both together.

  Args:
    encode: text to ids, without anything after the text.
    ending: the prompt, or enough of its end.
    labels: N label strings.

  Raises:
    ValueError: a label that adds no token, two labels of the same tokens, or
      nothing of the prompt left before the labels.
  """
  prompt = tuple(encode(ending))
  joint = [tuple(encode(ending + label)) for label in labels]
  keep = _common_prefix([prompt, *joint])
  tokens = tuple(ids[keep:] for ids in joint)
  where = f'after {ending[-40:]!r} the labels {tuple(labels)}'
  if not all(tokens):
    raise ValueError(f'{where} give no token of their own: {tokens}')
  if len(set(tokens)) < len(tokens):
    raise ValueError(f'{where} are not told apart by the tokenizer: {tokens}')
  if not keep:
    raise ValueError(f'{where} leave no token of the prompt before them')
  return LabelTokens(len(prompt) - keep, tokens)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LabelBatch:
  """Prompts whose labels are to be scored, as trees of tokens.

  A tree begins with what its M prompts share, goes on with each prompt's own
  tokens and, after each, with those that begin labels of several tokens: one
  forward pass predicts all tokens of all labels. `packing.pack` makes it.
  """

  tokens: jax.Array  # [B, T] int32
  ends: jax.Array  # [B, T] int32; see LanguageModel.apply
  at: jax.Array  # [B, M, I] int32; slots that `inner_nodes` predict from


def prefill(
  model: LanguageModel,
  params: types.Params,
  tokens: Int[Array, '1 P'],
  mask: Bool[Array, '1 P'],
) -> types.Cache:
  """Keys and values of the tokens that all prompts begin with, left-padded."""
  cache = model.init_cache(*tokens.shape)
  # Nobody looks at what comes out of the last layer.
  reads = jnp.zeros((1, 1), jnp.int32)
  return model.apply(
    params, tokens, mask=mask, cache=cache, logits=False, reads=reads
  ).cache


def label_logprobs(
  model: LanguageModel,
  params: types.Params,
  batch: LabelBatch,
  labels: tuple[tuple[int, ...], ...],
  prefix: types.Cache | None = None,
) -> Float[Array, 'B M N']:
  """Log-probability of each label string after each prompt.

  One forward pass; only positions that predict a label's token are unembedded.
  A label that begins another one ("1" and "10") gets the probability of its
  tokens NOT being followed by the rest of the other, so that the probabilities
  of all labels sum to at most 1.

  Args:
    model: the model.
    params: its parameters.
    batch: the prompts, up to where the labels begin, less the prefix.
    labels: tokens of the N labels, all different; static under jit.
    prefix: what all prompts begin with, from `prefill`; None: nothing.

  Raises:
    ValueError: a label is empty or repeats.
  """
  root = _trie(labels)
  logits = model.apply(
    params,
    batch.tokens,
    ends=batch.ends,
    prefix=prefix,
    reads=batch.at.reshape(batch.at.shape[0], -1),
  ).logits
  logits = logits.reshape(*batch.at.shape, -1)
  result: dict[int, Float[Array, 'B M']] = {}
  total = jnp.zeros(batch.at.shape[:2], jnp.float32)
  _walk(iter(jnp.moveaxis(logits, 2, 0)), result, root, total, leaves=False)
  return jnp.stack([result[i] for i in range(len(labels))], axis=-1)


def inner_nodes(
  labels: tuple[tuple[int, ...], ...],
) -> list[tuple[int | None, int]]:
  """Beginnings of labels that something follows, depth first.

  Returns:
    Of each its last token (None for the empty one, which comes first) and how
    many there are of those that begin with it.
  """

  def collect(token, node):
    below = [
      found
      for next_token, child in node.children.items()
      if child.children
      for found in collect(next_token, child)
    ]
    return [(token, 1 + len(below)), *below]

  return collect(None, _trie(labels))


def label_room(labels: tuple[tuple[int, ...], ...]) -> int:
  """Tokens that a prompt's labels take in a LabelBatch."""
  return len(inner_nodes(labels)) - 1


@dataclasses.dataclass
class _Node:
  """Labels that share their tokens so far."""

  label: int | None = None  # the one that ends here
  children: dict[int, '_Node'] = dataclasses.field(default_factory=dict)


def _trie(labels: tuple[tuple[int, ...], ...]) -> _Node:
  root = _Node()
  for i, label in enumerate(labels):
    node = root
    for token in label:
      node = node.children.setdefault(token, _Node())
    if node is root or node.label is not None:
      raise ValueError(f'labels {labels} are empty or repeat')
    node.label = i
  return root


def _walk(predictions, result, node, total, leaves):
  """Scores the labels below `node`.

  Args:
    predictions: logits [B, M, V] of the inner nodes to come, depth first.
    result: label index -> log-probability [B, M], filled in.
    node: where we are.
    total: [B, M] log-probability of the tokens up to here.
    leaves: whether to return the log-probability [B, M] that what follows is
      the rest of no label. It is summed up, not 1 minus something, and so
      stays exact however small it is.
  """
  logits = next(predictions)
  ids = np.array(list(node.children))
  log_z = jax.nn.logsumexp(logits, axis=-1)
  others = []
  if leaves:
    kept = ~np.isin(np.arange(logits.shape[-1]), ids)
    rest = jnp.where(kept[None, None], logits, -jnp.inf)
    others.append(jax.nn.logsumexp(rest, axis=-1) - log_z)
  for token, child in node.children.items():
    logprob = logits[..., token] - log_z
    ends = child.label is not None
    if not child.children:
      result[child.label] = total + logprob
      continue
    away = _walk(predictions, result, child, total + logprob, ends or leaves)
    if ends:
      result[child.label] = total + logprob + away
    elif leaves:
      others.append(logprob + away)
  return functools.reduce(jnp.logaddexp, others) if leaves else None


def _common_prefix(rows: Sequence[Sequence[int]]) -> int:
  count = 0
  for column in zip(*rows, strict=False):
    if len(set(column)) > 1:
      break
    count += 1
  return count


# -- responses ----------------------------------------------------------------


def response_hidden(
  model: LanguageModel, params: types.Params, rollout: types.Rollout
) -> Float[Array, 'B R D']:
  """What the model predicts each response token from.

  Args:
    model: the model.
    params: its parameters; gradients flow to them.
    rollout: prompts and responses.
  """
  tokens, seen, reads, _ = rows.join(model.config, rollout)
  hidden = model.apply(params, tokens, logits=False, reads=reads, **seen).hidden
  return rows.apart(hidden, rollout)


def response_stats(
  model: LanguageModel,
  params: types.Params,
  rollout: types.Rollout,
  *,
  temperature: float = 1.0,
  entropy: bool = False,
  hidden: Float[Array, 'B R D'] | None = None,
) -> types.TokenStats:
  """Log-probs (and entropy) [B, R] of the response tokens; 0 at padding.

  Args:
    model: any model of the same vocabulary as the one that sampled.
    params: its parameters; gradients flow to them.
    rollout: prompts and responses.
    temperature: divides the logits; that of sampling, to compare with
      `rollout.logprobs`.
    entropy: also give the entropy of each prediction.
    hidden: from `response_hidden`, if that is there already.
  """
  if hidden is None:
    hidden = response_hidden(model, params, rollout)
  stats = logprobs_lib.token_stats(
    hidden,
    rollout.response_tokens,
    functools.partial(model.unembed, params),
    temperature=temperature,
    entropy=entropy,
  )
  real = rollout.response_mask
  return jax.tree.map(lambda x: jnp.where(real, x, 0.0), stats)


def response_values(
  model,
  params: types.Params,
  rollout: types.Rollout,
  *,
  hidden: Float[Array, 'B R D'] | None = None,
) -> Float[Array, 'B R']:
  """Value of the state before each response token; 0 at padding.

  Args:
    model: a `models.heads.ScalarModel`.
    params: its parameters.
    rollout: prompts and responses.
    hidden: from `response_hidden` of another model, whose trunk the head is
      put on; of `params` only the head is read then.
  """
  if hidden is None:
    tokens, seen, reads, _ = rows.join(model.config, rollout)
    values = model.values(params, tokens, reads=reads, **seen)
    values = rows.apart(values, rollout)
  else:
    values = model.project(params, hidden)
  return jnp.where(rollout.response_mask, values, 0.0)


def sequence_logprobs(
  model: LanguageModel,
  params: types.Params,
  tokens: Int[Array, 'B T'],
  mask: Bool[Array, 'B T'],
  target_mask: Bool[Array, 'B T'],
) -> Float[Array, ' B']:
  """Log-probability of the tokens that `target_mask` marks, given the rest.

  The first real token of a row has nothing before it and never counts.

  Args:
    model: the model.
    params: its parameters.
    tokens: padded on either side.
    mask: True = real token.
    target_mask: True = this token counts.
  """
  hidden = model.apply(params, tokens, mask=mask, logits=False).hidden
  stats = logprobs_lib.next_token_stats(
    hidden, tokens, mask, functools.partial(model.unembed, params)
  )
  return masking.masked_sum(stats.logprobs, target_mask[:, 1:], axis=-1)
