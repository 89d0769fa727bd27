"""Supervised fine-tuning on demonstrations (paper 2.2.2 and App. G).

Next-token cross-entropy on the response tokens of `prompt + ' ' + response`.
`fit` is the loop itself: any stage that trains a language model on Examples
(the tiny world's labelers, for one) calls it with its own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import models, sharding
from rlaif_jax.core import logprobs
from rlaif_jax.core.types import TokenBatch
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.data.tokenizer import Tokenizer
from rlaif_jax.models import lora
from rlaif_jax.stages import common
from rlaif_jax.training import loop, step, train_state
from rlaif_jax.training import workdir as workdir_lib


class Objective(NamedTuple):
  """What a step learns from, and how."""

  loss: Callable  # loss(params, batch, key) -> (scalar, metrics)
  batch: Callable  # batch(this host's rows of a step, all hosts') -> arrays


def default_config() -> ConfigDict:
  """The paper's SFT: batch 128, one epoch, Adafactor 1e-5, 1024 + 128."""
  c = common.base_config('sft')
  c.model = common.model_config('')
  c.data = common.data_config('tldr', 'train')
  c.extra_data = common.data_config('', 'train')  # to learn beside; '' = none
  c.eval_data = common.data_config('tldr', 'valid')
  c.max_prompt = 1024  # tokens
  c.max_response = 128  # tokens, with the end-of-text token
  c.batch_size = 128
  c.num_microbatches = 1  # gradient accumulation: batch_size / this at a time
  c.num_steps = 0  # 0 = num_epochs over the data
  c.num_epochs = 1
  c.optimizer = common.optimizer_config(1e-5)
  c.checkpoint = common.checkpoint_config(every=200)
  c.eval_every = 200
  c.prompt_loss = 0.0  # weight of prompt tokens in the loss
  c.loss_mean = 'token'  # or 'row': each row weighs the same, however long
  c.overlong_response = 'error'  # or 'truncate': cut, without an end token
  c.group_by_length = False  # batches of rows of like length: less padding
  return c


def run(config: ConfigDict, workdir) -> None:
  """Fine-tunes `config.model` and leaves it in `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    loaded = common.load_policy(config.model, s)
    fit(s, loaded, *load_rows(config, loaded))


def load_rows(
  config: ConfigDict, loaded: common.Loaded
) -> tuple[list[Example], list[Example]]:
  """Rows to learn from, those of `extra_data` last, and rows to evaluate on."""
  train, extra, valid = (
    common.load_prompts(block, loaded.tokenizer, config.max_prompt)
    if block.name
    else []
    for block in (config.data, config.extra_data, config.eval_data)
  )
  check_responses(
    extra, loaded.tokenizer, config, common.source(config.extra_data)
  )
  return [*train, *extra], valid


def fit(
  s: common.Session,
  loaded: common.Loaded,
  train: Sequence[Example],
  valid: Sequence[Example],
  objective: Objective | None = None,
) -> None:
  """Trains on `train`, reports loss on `valid`, exports and finishes.

  Without an `objective` it is the cross-entropy that is reported.
  """
  config, model = s.config, loaded.model
  common.check_context(
    model, max_prompt=config.max_prompt, max_response=config.max_response
  )
  for rows, block in ((train, config.data), (valid, config.eval_data)):
    check_responses(rows, loaded.tokenizer, config, common.source(block))
  num_steps = config.num_steps or max(
    1, config.num_epochs * len(train) // config.batch_size
  )
  tx = common.make_optimizer(config.optimizer, num_steps)
  objective = objective or plain_objective(config, loaded)
  train_step = step.make_train_step(
    lora.joined(objective.loss), tx, num_microbatches=config.num_microbatches
  )
  frozen, trained = lora.split(model, loaded.params)
  state = train_state.create(trained, tx, s.mesh)
  key = jax.random.key(config.seed)

  rows_of = make_order(config, loaded.tokenizer, train)

  share = common.host_share(config.batch_size)

  def batch(at: int):
    rows = [train[i] for i in rows_of(at)]
    return objective.batch([rows[i] for i in share], rows)

  plain = jax.jit(lora.joined(plain_objective(config, loaded).loss))
  evaluate = make_evaluate(
    s, loaded, valid, functools.partial(plain, frozen=frozen)
  )
  batches = pipeline.prefetch(batch)

  def step_fn(state, at: int):
    tokens = sharding.shard_batch(batches(at), s.mesh)
    return train_step(state, tokens, jax.random.fold_in(key, at), frozen)

  writer = common.writer_for(s)
  with common.checkpointer_for(s, 'eval/loss', 'min') as checkpointer:
    state = loop.run_loop(
      state,
      step_fn,
      num_steps=num_steps,
      checkpointer=checkpointer,
      writer=writer,
      save_every=config.checkpoint.every,
      log_every=config.log_every,
      eval_every=config.eval_every,
      evaluate=evaluate,
      describe=batch,
      title=s.workdir.name,
      tokens_per_step=config.batch_size
      * (config.max_prompt + config.max_response),
    )
  final = evaluate(state)
  common.export_model(s, loaded, model, lora.join(frozen, state.params))
  workdir_lib.finish(
    s.workdir,
    {'steps': num_steps, 'examples': len(train), **final},
  )


def plain_objective(config: ConfigDict, loaded: common.Loaded) -> Objective:
  """Cross-entropy on the responses."""

  def batch(rows: Sequence[Example], among: Sequence[Example]):
    return transforms.sft_batch(
      rows,
      loaded.tokenizer,
      config.max_prompt,
      config.max_response,
      among=among if config.group_by_length else None,
      overflow=config.overlong_response,
    )

  loss = make_loss(
    loaded.model, config.max_response, config.prompt_loss, config.loss_mean
  )
  return Objective(loss, batch)


def make_order(config: ConfigDict, tokenizer, train: Sequence[Example]):
  """rows(step) -> row numbers of the step's batch, all hosts'."""
  size, count = config.batch_size, len(train)
  if not config.group_by_length:
    return lambda at: pipeline.batch_indices(config.seed, at, size, count)
  lengths = [
    len(ids) for ids in tokenizer.encode_batch([e.prompt for e in train])
  ]
  # The shortest rows come twice where rows do not fill the last block.
  places = np.append(
    np.arange(count), np.resize(np.arange(count), -count % size)
  )
  blocks = np.argsort(lengths, kind='stable')[np.sort(places)].reshape(-1, size)

  def rows(at: int):
    (block,) = pipeline.batch_indices(config.seed, at, 1, len(blocks))
    return blocks[block]

  return rows


def make_loss(
  model, max_response: int, prompt_loss: float, loss_mean: str = 'token'
):
  """loss(params, TokenBatch, key) -> (mean NLL, metrics).

  The mean over all response tokens, or with `loss_mean='row'` over rows of
  each row's own mean.

  Without a loss on prompts only the `max_response` positions that predict
  response tokens go through the last layer and are unembedded, which for large
  vocabularies and short responses is most of the unembedding saved.
  """
  model = models.for_training(model)

  def loss_fn(params, batch, key):
    del key  # no dropout: the batch alone decides
    targets, weight = batch.tokens[:, 1:], batch.loss_mask[:, 1:]
    if prompt_loss:
      slots = None
      weight = weight + prompt_loss * (batch.mask[:, 1:] & ~weight)
    else:
      slots, targets, weight = response_window(batch, max_response)
    hidden = model.apply(
      params, batch.tokens, mask=batch.mask, logits=False, reads=slots
    ).hidden
    if slots is None:
      hidden = hidden[:, :-1]
    stats = logprobs.token_stats(
      hidden, targets, lambda h: model.unembed(params, h)
    )
    weight = weight.astype(jnp.float32)
    if loss_mean == 'row':
      weight /= jnp.maximum(weight.sum(-1, keepdims=True), 1.0)
    loss = -(stats.logprobs * weight).sum() / jnp.maximum(weight.sum(), 1)
    return loss, {'loss/sft': loss, 'weight': weight.sum()}

  return loss_fn


def response_window(batch: TokenBatch, width: int):
  """(slots that predict the response, its tokens, which count), [B, width].

  Those of each row from its first token to learn on.
  """
  weight = batch.loss_mask[:, 1:]
  width = min(width, weight.shape[1])
  start = jnp.minimum(jnp.argmax(weight, axis=1), weight.shape[1] - width)
  slots = start[:, None] + jnp.arange(width)[None]
  return (
    slots,
    jnp.take_along_axis(batch.tokens[:, 1:], slots, axis=1),
    jnp.take_along_axis(weight, slots, axis=1),
  )


def make_evaluate(s, loaded, valid, loss_fn):
  """evaluate(state) -> {'eval/loss', 'eval/perplexity'} over `valid`."""
  config = s.config

  def evaluate(state) -> dict[str, float]:
    total = count = 0.0
    for rows, weights in pipeline.eval_batches(len(valid), config.batch_size):
      batch = transforms.sft_batch(
        [valid[i] for i in rows],
        loaded.tokenizer,
        config.max_prompt,
        config.max_response,
        row_weights=weights,
        overflow=config.overlong_response,
      )
      batch = sharding.shard_batch(batch, s.mesh, whole=True)
      loss, metrics = loss_fn(state.params, batch, None)
      weight = float(metrics['weight'])
      total, count = total + float(loss) * weight, count + weight
    mean = total / max(count, 1)
    return {'eval/loss': mean, 'eval/perplexity': float(jnp.exp(mean))}

  return evaluate


def check_responses(
  examples: Sequence[Example],
  tokenizer: Tokenizer,
  config: ConfigDict,
  source: str,
) -> None:
  """Raises ValueError naming a row that has no response, or too long a one."""
  for example in examples:
    if not example.response:
      raise ValueError(
        f'{source}: row {example.id} has no response to learn from; SFT needs '
        "the column 'response' (or 'summary', 'chosen')"
      )
  if config.loss_mean not in ('token', 'row'):
    raise ValueError(
      f"config.loss_mean={config.loss_mean!r}; use 'token' or 'row'"
    )
  if config.overlong_response not in ('error', 'truncate'):
    raise ValueError(
      f'config.overlong_response={config.overlong_response!r}; use '
      "'error' or 'truncate'"
    )
  if config.overlong_response == 'truncate':
    return
  encoded = transforms.continuation_ids(
    [e.response for e in examples],
    tokenizer,
    [e.separator for e in examples],
  )
  for example, ids in zip(examples, encoded, strict=True):
    if len(ids) > config.max_response:
      raise ValueError(
        f'{source}: row {example.id}: its response has {len(ids)} tokens with '
        f'the end token, more than max_response={config.max_response}; raise '
        "config.max_response or set config.overlong_response to 'truncate'"
      )
