"""Direct scores of sampled tokens, without a way back through text.

Where policy and labeler share their tokens, a labeling prompt is put together
on the devices: the tokens before the response come from the host, which knows
them before anything is sampled, then the response as it was sampled, then the
prompt's ending. What all rows begin with is read once, and kept.

What the text path takes from a response (labeler/template.py) is taken here
token by token: line breaks, special tokens and the sign that leads to the
label, so that a response can neither end its prompt nor state a score. The ids
may differ from those of the response's text where the policy sampled an unusual
spelling; the labeler then reads what was sampled.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.core import types
from rlaif_jax.data import transforms
from rlaif_jax.inference import packing, score
from rlaif_jax.labeler import direct, template
from rlaif_jax.labeler.in_mesh import InMeshLabeler
from rlaif_jax.labeler.prompts import LabelPrompt

_MARK = 'x'  # stands for the response where the text before it is wanted


def assemble(
  before: tuple[Int[Array, 'B P'], Bool[Array, 'B P']],
  response: Int[Array, 'B R'],
  kept: Bool[Array, 'B R'],
  suffix: tuple[int, ...],
  labels: tuple[tuple[int, ...], ...],
  pad_id: int,
) -> score.LabelBatch:
  """Prompts [B, P + R + S + I - 1] whose labels are to be scored.

  Args:
    before: tokens before the response, less what all prompts begin with, and
      which of them are real.
    response: tokens of the response.
    kept: which of them are read.
    suffix: S tokens between the response and the labels.
    labels: tokens of the labels, with I - 1 inner nodes beside the root.
    pad_id: fills the padding.
  """
  nodes = score.inner_nodes(labels)
  inner = jnp.array([token for token, _ in nodes[1:]], jnp.int32)
  sizes = jnp.array([size for _, size in nodes[1:]], jnp.int32)
  rows, room = response.shape[0], len(nodes) - 1
  tail = jnp.concatenate([jnp.array(suffix, jnp.int32), inner])
  tokens = jnp.concatenate(
    [before[0], response, jnp.broadcast_to(tail, (rows, len(tail)))], axis=1
  )
  real = jnp.concatenate(
    [before[1], kept, jnp.ones((rows, len(tail)), bool)], axis=1
  )
  # Real tokens to the left, in their order.
  order = jnp.argsort(~real, axis=1, stable=True)
  total = real.sum(axis=1, keepdims=True)
  slot = jnp.arange(tokens.shape[1])[None]
  tokens = jnp.where(
    slot < total, jnp.take_along_axis(tokens, order, axis=1), pad_id
  )
  last = total - room  # one past the suffix
  ends = jnp.where(slot < last, total, 0)
  at = (last - 1)[:, None] + jnp.arange(len(nodes))[None, None]
  if room:
    places = at[:, 0, 1:]
    ends = ends.at[jnp.arange(rows)[:, None], places].set(places + sizes[None])
  return score.LabelBatch(tokens, ends, at)


@dataclasses.dataclass(frozen=True, eq=False)
class OnDevice:
  """A labeler with its scoring prompt, for a policy with the same tokens.

  Attributes:
    labeler: who scores.
    prompt: asks for no rationale, and has no criteria.
    max_response: tokens that a response may have.
  """

  labeler: InMeshLabeler
  prompt: LabelPrompt
  max_response: int

  def scores(
    self,
    rollout: types.Rollout,
    fields: Sequence[Mapping[str, str]],
    ids: Sequence[str],
  ) -> Float[Array, ' B']:
    """Scores [B] as `direct.score_responses` gives, still on the devices."""
    return self.scores_and_read(rollout, fields, ids)[0]

  def scores_and_read(
    self,
    rollout: types.Rollout,
    fields: Sequence[Mapping[str, str]],
    ids: Sequence[str],
  ) -> tuple[Float[Array, ' B'], Int[Array, '']]:
    """`scores`, and how many tokens of responses the labeler read for them.

    One program gives both: two that run at once, each with collectives, can
    wait for each other where there are several hosts. The labeler's counters
    get the tokens around responses alone.

    Args:
      rollout: of all B rows, split over the mesh that is set.
      fields: of all B rows; every process passes the same.
      ids: names of the rows, for messages.

    Raises:
      ValueError: a prompt that does not fit with any post left; names the row.
    """
    rows = self._before(fields, ids)
    counters = self.labeler.counters
    counters.texts += len(rows)
    counters.tokens += sum(map(len, rows)) + len(rows) * len(self.suffix)
    start, prefix = self._prefix(rows, rollout)
    tokens, mask = transforms.left_pad(
      [row[start:] for row in rows],
      transforms.power_buckets(self._limit, 32),
      self.labeler.tokenizer.pad_id,
    )
    mesh = jax.sharding.get_mesh()
    if not mesh.empty:
      count = jax.process_count()
      share = len(tokens) // count
      mine = slice(jax.process_index() * share, None)
      arrays = (tokens[mine][:share], mask[mine][:share])
      tokens, mask = sharding.shard_batch(arrays, mesh)
    return _scores(
      self.labeler.model,
      self.prompt,
      self.suffix,
      self.labels,
      self.labeler.tokenizer.pad_id,
      self.labeler.params,
      prefix,
      (tokens, mask),
      rollout.response_tokens,
      rollout.response_mask,
      self.dropped,
    )

  def _prefix(self, rows, rollout) -> tuple[int, types.Cache | None]:
    """How many tokens all rows begin with, and their keys and values."""
    start = packing.prefix_length(sorted(rows), range(len(rows)))
    if start and jax.process_count() > 1:
      # On CPU two programs with collectives may wait for each other, see above.
      jax.block_until_ready(rollout.response_tokens)
    return start, self.labeler.prefixes.get(rows[0][:start])

  @property
  def _limit(self) -> int:
    """Tokens that there may be before a response."""
    room = self.max_response + len(self.suffix) + score.label_room(self.labels)
    return self.labeler.limit - room

  def _before(self, fields, ids) -> list[list[int]]:
    """Tokens before each response."""
    encode = self.labeler.tokenizer.encode
    end = f'{_MARK}\n\n{self.prompt.ending}'

    def before(text: str) -> str:
      return text[: len(text) - len(end)].rstrip(' ')

    rows = []
    for name, row in zip(ids, fields, strict=True):
      found = template.fit(
        self.prompt,
        row,
        (_MARK,),
        fits=lambda text: len(encode(before(text))) <= self._limit,
      )
      if found is None:
        raise ValueError(
          f'{name}: with {self.max_response} tokens of response the prompt '
          f'{self.prompt.name!r} is over {self.labeler.limit} tokens; allow '
          'shorter responses or a longer prompt'
        )
      rows.append(encode(before(found.texts[0])))
    return rows

  @functools.cached_property
  def _boundary(self) -> score.LabelTokens:
    encode = self.labeler.tokenizer.encode_plain
    return score.labels_to_tokens(
      encode, f'\n\n{self.prompt.ending}', self.prompt.labels
    )

  @property
  def labels(self) -> tuple[tuple[int, ...], ...]:
    """Tokens of the labels, after `suffix`."""
    return self._boundary.tokens

  @functools.cached_property
  def suffix(self) -> tuple[int, ...]:
    """Tokens between a response and its label."""
    encode = self.labeler.tokenizer.encode_plain
    ids = encode(f'\n\n{self.prompt.ending}')
    return tuple(ids[: len(ids) - self._boundary.drop])

  @functools.cached_property
  def dropped(self) -> np.ndarray:
    """Which tokens [V] of a response the labeler does not get to read."""
    tokenizer = self.labeler.tokenizer
    size = self.labeler.model.config.vocab_size
    texts = tokenizer.decode_batch(
      [[i] for i in range(tokenizer.vocab_size)], skip_special=True
    )
    sign = self.prompt.ending.strip()[-1]
    unwanted = set('\n\r\x0b\x0c\x85\u2028\u2029')
    if not sign.isalnum():
      unwanted.add(sign)
    found = [not text or bool(unwanted & set(text)) for text in texts]
    # Rows of the table beyond the vocabulary stand for nothing.
    return np.array((found + [True] * size)[:size])


def supports(prompt: LabelPrompt) -> bool:
  """Whether a prompt is scored in one call, without rationale or criteria."""
  return (
    prompt.num_responses == 1
    and prompt.chain_of_thought is None
    and not prompt.criteria
    and prompt.template.endswith('{response_1}')
  )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _scores(
  model,
  prompt,
  suffix,
  labels,
  pad_id,
  params,
  prefix,
  before,
  tokens,
  mask,
  dropped,
):
  kept = mask & ~dropped[tokens]
  batch = assemble(before, tokens, kept, suffix, labels, pad_id)
  logprobs = score.label_logprobs(model, params, batch, labels, prefix)[:, 0]
  score_of = (
    direct.log_odds if prompt.kind == 'yes_no' else direct.expected_score
  )
  return score_of(logprobs, prompt.prefers), kept.sum()
