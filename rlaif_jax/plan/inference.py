"""Programs that learn nothing: label scoring, prefill, decode, rewards."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlaif_jax import algorithms, sharding
from rlaif_jax.core import types
from rlaif_jax.inference import decode, score
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.plan import work
from rlaif_jax.plan.context import Context, Program
from rlaif_jax.plan.shapes import Sharded, attach
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import _rl_options, common

_LABEL_ROOM = 8  # positions that labeler/in_mesh.py keeps free
# Labels that begin no other one take one position each; which tokens they are
# does not matter.
PAIR = ((1,), (2,))
SCORES = (*((i,) for i in range(1, 10)), (1, 10))  # 1 to 10; '10' has two
_CACHE_AXES = {'b': 'batch', 's': 'length', 'k': 'kv_heads', 'h': 'head_dim'}


def scoring(
  block: ConfigDict, context: Context, labels: tuple[tuple[int, ...], ...]
) -> Program:
  """Label scoring as labeler/in_mesh.py runs it, at its largest.

  That is a full batch of texts of `max_tokens` that share nothing.
  """
  labeler = context.frozen(
    block.path, block.param_dtype, block.offload, dtype=block.dtype
  )
  c = labeler.model.config
  limit = min(block.max_tokens, c.max_positions - _LABEL_ROOM)
  inner = len(score.inner_nodes(labels))
  rows, length = block.batch_size, limit + score.label_room(labels)
  batch = score.LabelBatch(
    tokens=context.rows(rows, length),
    ends=context.rows(rows, length),
    at=context.rows(rows, 1, inner),
  )
  run = jax.jit(score.label_logprobs, static_argnums=(0, 3))
  return Program(
    name='score labels',
    lower=lambda _: run.lower(labeler.model, labeler.params, batch, labels),
    params=labeler.params,
    optimizer=(),
    others=batch,
    resident=(),
    work=work.forward(c, rows, length, inner),
  )


def rewarding(
  block: ConfigDict, context: Context, rollout: types.Rollout
) -> list[Program]:
  """The reward of the RL stage: a labeler's own score, or a reward model's.

  Of other rewards the model at `path`, if there is one.
  """
  if block.name == 'direct':
    return [scoring(block, context, SCORES)]
  if not block.path:
    return []
  found = context.frozen_scalar(block.path, block.param_dtype, block.offload)
  rows = rollout.prompt_tokens.shape[0]
  length = rollout.prompt_tokens.shape[1] + rollout.response_tokens.shape[1]
  program = Program(
    name='score rewards',
    lower=lambda _: reward_model.score_rollout.lower(
      found.model, found.params, rollout
    ),
    params=found.params,
    optimizer=(),
    others=rollout,
    resident=(),
    work=work.forward(found.model.config, rows, length, 0),
  )
  return [program]


def rollout(
  config: ConfigDict, context: Context, policy: Sharded, rows: int
) -> tuple[Program, Program]:
  """Prefill and decode, as `decode.make_generate` runs them."""
  c, new = policy.model.config, config.max_response
  prompts = types.PromptBatch(
    context.rows(rows, config.max_prompt),
    context.rows(rows, config.max_prompt, dtype=bool),
    group=_group_size(config),
  )
  first = jax.jit(
    functools.partial(decode.prefill, policy.model, max_new_tokens=new)
  )
  second = jax.jit(
    functools.partial(
      decode.decode,
      policy.model,
      max_new_tokens=new,
      sampling=common.make_sampling(config.sampling),
      eos_ids=c.eos_ids or (1,),
      pad_id=0,
    ),
    donate_argnums=1,
  )
  between = _as_constrained(
    jax.eval_shape(first, policy.params, prompts), policy.model, context
  )
  keys = context.replicated(lambda: decode.fold_rows(jax.random.key(0), rows))

  def lower_second(compiled):
    logits, cache = between
    if 'prefill' in compiled:
      # It gets them as they are left, not as they should have been.
      logits, cache = attach(between, compiled['prefill'].output_shardings)
    return second.lower(policy.params, cache, logits, prompts, keys)

  return (
    Program(
      name='prefill',
      lower=lambda _: first.lower(policy.params, prompts),
      params=policy.params,
      optimizer=(),
      others=prompts,
      resident=(),
      work=work.forward(c, rows // prompts.group, config.max_prompt, 1),
    ),
    Program(
      name='decode',
      lower=lower_second,
      params=policy.params,
      optimizer=(),
      others=(between, prompts, keys),
      resident=(),
      work=work.decoding(c, rows, config.max_prompt, new),
    ),
  )


def abstract_rollout(config: ConfigDict, context: Context) -> types.Rollout:
  """What the RL stage has sampled."""
  rows = config.batch_size
  prompt, response = (rows, config.max_prompt), (rows, config.max_response)
  return types.Rollout(
    prompt_tokens=context.rows(*prompt),
    prompt_mask=context.rows(*prompt, dtype=bool),
    response_tokens=context.rows(*response),
    response_mask=context.rows(*response, dtype=bool),
    logprobs=context.rows(*response, dtype=jnp.float32),
    group=_group_size(config),
  )


def _group_size(config: ConfigDict) -> int:
  """Responses of each prompt in RL."""
  _, options = _rl_options.make_options(config)
  return algorithms.count(options, 'group_size')


def _as_constrained(left: Any, model: Any, context: Context) -> Any:
  """Logits and cache with the shardings that the rules ask for."""
  order = cache_lib.layout(model.config)
  buffer = ('layers', *(_CACHE_AXES[letter] for letter in order))
  _, cache = left
  axes = (
    ('batch', 'vocab'),
    types.Cache(
      keys=jax.tree.map(lambda _: buffer, cache.keys),
      values=jax.tree.map(lambda _: buffer, cache.values),
      mask=('batch', 'length'),
      index=(),
    ),
  )
  where = sharding.shardings(axes, left, context.mesh, model.rules)
  return attach(left, where)
