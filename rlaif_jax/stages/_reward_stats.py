"""What a reward model says of texts, and its mean and deviation for those who
use it as a reward (rewards/reward_model.py).

InstructGPT (arXiv 2203.02155, section 3.5) moves the bias of a reward model,
whose loss does not know it, so that demonstrations score 0 on average.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.core import masking, trees
from rlaif_jax.core.types import PairBatch
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.models import sight
from rlaif_jax.rewards.reward_model import STATS_FILE
from rlaif_jax.stages import common
from rlaif_jax.training import workdir as workdir_lib

_TEXTS = 1024  # that mean and deviation are taken over


def pair_batch(config: ConfigDict, loaded: common.Loaded, rows):
  """PairBatch of Examples; a response over `max_response` is cut there."""
  return transforms.pair_batch(
    rows,
    loaded.tokenizer,
    config.max_prompt,
    config.max_response,
    overflow='truncate',
  )


def score_pairs(model, params, batch: PairBatch, max_response: int):
  """Scores ([B], [B]) of both responses; their prompt is read once."""
  texts = (batch.tokens_1, batch.mask_1, batch.tokens_2, batch.mask_2)
  tree = trees.join_pairs(*texts, batch.tokens_1.shape[1] + max_response)
  ends = [
    sight.take(slots, masking.last_real(mask)[:, None])
    for slots, mask in zip(tree[2:], texts[1::2], strict=True)
  ]
  scores = model.values(
    params, tree.tokens, ends=tree.ends, reads=jnp.concatenate(ends, axis=1)
  )
  return scores[:, 0], scores[:, 1]


_score_pairs = jax.jit(score_pairs, static_argnames=('model', 'max_response'))


def all_scores(s, loaded, model, params, pairs) -> np.ndarray:
  """Raw scores [n, 2] of both responses of all pairs, on the host."""
  found = []
  for rows, _ in pipeline.eval_batches(len(pairs), s.config.batch_size):
    batch = pair_batch(s.config, loaded, [pairs[i] for i in rows])
    batch = sharding.shard_batch(batch, s.mesh, whole=True)
    scores = _score_pairs(model, params, batch, s.config.max_response)
    found.append(np.stack(sharding.to_host(scores), axis=1))
  return np.concatenate(found)[: len(pairs)]


def write_stats(s, loaded, model, params, pairs: Sequence[Example]) -> None:
  """Mean and std of the scores of training responses, beside the model.

  Over the first of them; the mean is that of `config.demonstrations` instead,
  where there are some.
  """
  scores = all_scores(s, loaded, model, params, pairs[: _TEXTS // 2])
  shown = demonstrations(s.config, loaded)
  centred = all_scores(s, loaded, model, params, shown) if shown else scores
  stats = {'mean': float(centred.mean()), 'std': float(scores.std() or 1.0)}
  workdir_lib.write_json_atomic(s.workdir / 'model' / STATS_FILE, stats)


def demonstrations(config: ConfigDict, loaded: common.Loaded) -> list[Example]:
  """Rows with a response, as pairs of it with itself; [] if none are wanted.

  Raises:
    ValueError: the data set has no responses, or none that fits.
  """
  block = config.demonstrations
  if not block.name:
    return []
  rows = [e for e in common.load_examples(block) if e.response is not None]
  if not rows:
    raise ValueError(
      f'{common.source(block)}: config.demonstrations needs rows with a '
      'response; there are none'
    )
  rows = common.fit_prompts(
    rows[:_TEXTS],
    loaded.tokenizer,
    config.max_prompt,
    block.overflow,
    common.source(block),
  )
  return [
    dataclasses.replace(e, pair=(e.response, e.response), p_first=0.5)
    for e in rows
  ]
