"""Learning from preferences without RL: DPO and its kin, offline.

The policy's own log-probabilities of the two responses of a pair take the
place of a reward model (core/preference.py has the losses). Labels are those
of a label stage, soft or hard, or of a data set; the reference is frozen, by
default the policy as it starts. One step is a forward of the reference, where
the loss has one, and a forward and backward of the policy on both responses.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from rlaif_jax import models, sharding
from rlaif_jax.core import masking, preference
from rlaif_jax.core.types import Params, TokenBatch
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.data.datasets import Example
from rlaif_jax.models import lora
from rlaif_jax.stages import _options, _reference, common, reward
from rlaif_jax.stages._response_logps import pair_logps, response_logps
from rlaif_jax.training import loop, step, train_state
from rlaif_jax.training import workdir as workdir_lib

# Functions of core/preference.py. What they take, they are given.
LOSSES = ('dpo', 'ipo', 'simpo', 'kto', 'orpo', 'cpl')
# The metric by which a checkpoint is kept as the best one.
BEST = 'eval_rewards/accuracies'


def default_config() -> ConfigDict:
  """DPO's (arXiv 2305.18290, appendix B): batch 64, RMSprop 1e-6, 150 warm.

  Epochs and clipping are of eric-mitchell/direct-preference-optimization.
  """
  c = common.base_config('preference')
  c.policy = common.model_config('')  # the SFT model
  # Frozen; '' = the policy's starting point. A loss that needs none has none,
  # but 'cpl' takes the one that is given.
  c.reference = ''
  # Of its weights, if it should not be float32: 'bfloat16', 'int8', ...
  c.reference_param_dtype = ''
  c.reference_offload = False  # they wait in host memory between updates
  c.labels = ''  # preference file, or workdir of a label stage; '' = data's own
  c.data = common.data_config('tldr', 'train')  # used where labels = ''
  c.eval_data = common.data_config('tldr', 'valid')  # human pairs
  c.max_prompt = 1024
  c.max_response = 128
  c.hard_labels = False  # labels become 0 or 1, ties stay
  c.loss = 'dpo'  # one of LOSSES
  # Its options: --config.loss_options="{'beta': 0.5, 'smoothing': 0.1}"
  c.loss_options = ConfigDict(convert_dict=False)
  c.batch_size = 64  # pairs
  c.num_microbatches = 1
  c.num_steps = 0  # 0 = num_epochs over the pairs
  c.num_epochs = 1
  c.optimizer = common.optimizer_config(1e-6, 'adam')
  # Which is RMSprop, but that it makes up for moments that start at 0.
  c.optimizer.b1, c.optimizer.b2 = 0.0, 0.99
  c.optimizer.warmup_steps, c.optimizer.clip_norm = 150, 10.0
  c.checkpoint = common.checkpoint_config(every=100)
  c.eval_every = 100
  return c


class Pairs(NamedTuple):
  """A batch of pairs, as texts of which the responses are to be learned."""

  first: TokenBatch
  second: TokenBatch
  # First responses after another row's prompt: what KTO takes its KL from.
  mismatched: TokenBatch | None
  p_first: Float[Array, ' B']
  weight: Float[Array, ' B']  # 0 for a row that only fills the batch


def run(config: ConfigDict, workdir) -> None:
  """Trains `config.policy` on pairs; leaves it in `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    loss_of(config)  # what is wrong with it is said before models load
    _reference.check(config)
    loaded = common.load_policy(config.policy, s)
    common.check_context(
      loaded.model,
      max_prompt=config.max_prompt,
      max_response=config.max_response,
    )
    train = reward.fit_pairs(
      s,
      loaded,
      reward.load_labels(config),
      config.data.overflow,
      config.labels or common.source(config.data),
    )
    human = reward.human_pairs(s, loaded, config.eval_data)
    params, found = fit(s, loaded, train, human)
    common.export_model(s, loaded, loaded.model, params)
    workdir_lib.finish(s.workdir, {'pairs': len(train), **found})


def fit(
  s: common.Session,
  loaded: common.Loaded,
  train: Sequence[Example],
  human: Sequence[Example],
) -> tuple[Params, dict[str, float]]:
  """The training loop; returns the parameters and metrics on human pairs."""
  config, key = s.config, jax.random.key(s.config.seed)
  num_steps = config.num_steps or max(
    1, config.num_epochs * len(train) // config.batch_size
  )
  tx = common.make_optimizer(config.optimizer, num_steps)
  loss_fn = make_loss(config, loaded.model)
  train_step = step.make_train_step(
    loss_fn, tx, num_microbatches=config.num_microbatches
  )
  frozen, trained = split_models(s, loaded)
  state = train_state.create(trained, tx, s.mesh)

  def batch(at: int) -> Pairs:
    rows = pipeline.batch_indices(
      config.seed, at, config.batch_size, len(train),
      process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    pairs = make_batch(config, loaded, [train[i] for i in rows])
    if config.hard_labels:
      return pairs._replace(p_first=reward.harden(pairs.p_first))
    return pairs

  batches = pipeline.prefetch(batch)
  evaluate = make_evaluate(s, loaded, human, loss_fn, frozen)

  def step_fn(state, at: int):
    pairs = sharding.shard_batch(batches(at), s.mesh)
    return train_step(state, pairs, jax.random.fold_in(key, at), frozen)

  with common.checkpointer_for(s, BEST) as checkpointer:
    state = loop.run_loop(
      state,
      step_fn,
      num_steps=num_steps,
      checkpointer=checkpointer,
      writer=common.writer_for(s),
      save_every=config.checkpoint.every,
      log_every=config.log_every,
      eval_every=config.eval_every,
      evaluate=evaluate,
      describe=batch,
      title=s.workdir.name,
      tokens_per_step=2
      * config.batch_size
      * (config.max_prompt + config.max_response),
    )
  return frozen.policy_params(state.params), evaluate(state)


def split_models(
  s: common.Session, loaded: common.Loaded
) -> tuple[_reference.Frozen, Params]:
  """(what a step reads only, what it trains).

  What is trained is a copy where the reference keeps the originals.
  """
  base, trained = lora.split(loaded.model, loaded.params)
  if not loss_of(s.config).reference:
    return _reference.Frozen(base), trained
  reference = _reference.load(s, loaded)
  if reference is loaded:
    trained = jax.tree.map(jnp.copy, trained)
  policy = base if s.config.reference else {}
  return _reference.freeze(reference, policy=policy), trained


@dataclasses.dataclass(frozen=True)
class Loss:
  """A loss of core/preference.py and what it takes.

  Attributes:
    function: the loss.
    options: its keywords.
    reference: whether it takes the reference's log-probabilities.
    lengths: whether it takes the responses' lengths.
    kl: whether it takes an estimate of KL to the reference.
  """

  function: Callable
  options: dict[str, float]
  reference: bool
  lengths: bool
  kl: bool


def loss_of(config: ConfigDict) -> Loss:
  """The loss that the config names.

  Raises:
    ValueError: there is no such loss or option, or a value is no number.
  """
  if config.loss not in LOSSES:
    raise ValueError(
      f'config.loss={config.loss!r} is unknown; there are: {", ".join(LOSSES)}'
    )
  function = getattr(preference, config.loss)
  takes = inspect.signature(function).parameters
  known = [
    name
    for name, p in takes.items()
    if p.kind == p.KEYWORD_ONLY and not name.startswith('ref_')
  ]
  options = dict(config.loss_options)
  _options.check_known(options, known, 'config.loss_options')
  for name, value in options.items():
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise ValueError(f'config.loss_options.{name}={value!r} is no number')
  place = takes.get('ref_logps_1')
  needed = place is not None and place.default is place.empty
  return Loss(
    function,
    options,
    reference=needed or (place is not None and bool(config.reference)),
    lengths='lengths_1' in takes,
    kl='kl' in takes,
  )


def make_loss(config: ConfigDict, model) -> Callable:
  """loss(trained, Pairs, key, Frozen) -> (mean over pairs, metrics)."""
  loss = loss_of(config)

  def logps(model, params, batch: Pairs):
    """Log-probabilities and lengths of responses, [B] of each text."""
    model = models.for_training(model)
    pair = batch.first, batch.second
    values, lengths = pair_logps(model, params, *pair, config.max_response)
    if loss.kl:
      values.append(
        response_logps(model, params, batch.mismatched, config.max_response)
      )
    return values, lengths

  def loss_fn(trained, batch: Pairs, key, frozen: _reference.Frozen):
    del key  # no dropout: the batch alone decides
    policy, lengths = logps(model, frozen.policy_params(trained), batch)
    given = dict(logps_1=policy[0], logps_2=policy[1])
    if loss.lengths:
      given |= dict(lengths_1=lengths[0], lengths_2=lengths[1])
    if loss.reference:
      anchor, _ = jax.lax.stop_gradient(
        logps(frozen.model, frozen.reference_params(), batch)
      )
      given |= dict(ref_logps_1=anchor[0], ref_logps_2=anchor[1])
      if loss.kl:
        given['kl'] = masking.masked_mean(
          policy[2] - anchor[2], batch.weight > 0
        )
    value, metrics = loss.function(
      **given, p_first=batch.p_first, weight=batch.weight, **loss.options
    )
    weight = jnp.sum(batch.weight)
    return value, {'loss/preference': value, **metrics, 'weight': weight}

  return loss_fn


def make_batch(
  config: ConfigDict,
  loaded: common.Loaded,
  rows: Sequence[Example],
  weights: np.ndarray | None = None,
) -> Pairs:
  """Pairs of Examples; a response over `max_response` is cut there."""

  def texts(responses: Sequence[str]) -> TokenBatch:
    return transforms.sft_batch(
      [
        dataclasses.replace(row, response=response)
        for row, response in zip(rows, responses, strict=True)
      ],
      loaded.tokenizer,
      config.max_prompt,
      config.max_response,
      overflow='truncate',
    )

  first = [row.pair[0] for row in rows]
  weight = np.ones(len(rows)) if weights is None else weights
  return Pairs(
    first=texts(first),
    second=texts([row.pair[1] for row in rows]),
    mismatched=texts(first[1:] + first[:1]) if loss_of(config).kl else None,
    p_first=np.array([row.p_first for row in rows], np.float32),
    weight=np.asarray(weight, np.float32),
  )


def make_evaluate(
  s: common.Session, loaded, human, loss_fn, frozen
) -> Callable:
  """evaluate(state) -> 'eval/loss' and 'eval_<metric>' over human pairs."""
  compiled = jax.jit(loss_fn)

  def evaluate(state) -> dict[str, float]:
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for rows, weights in pipeline.eval_batches(len(human), s.config.batch_size):
      batch = make_batch(s.config, loaded, [human[i] for i in rows], weights)
      placed = sharding.shard_batch(batch, s.mesh, whole=True)
      _, metrics = compiled(state.params, placed, None, frozen)
      decided = weights * (batch.p_first != 0.5)
      for key, value in jax.device_get(metrics).items():
        # Losses are means over all pairs, the others over those decided.
        of_decided = key.startswith(('rewards/', 'logps/'))
        count = float((decided if of_decided else weights).sum())
        sums[key] = sums.get(key, 0.0) + float(value) * count
        counts[key] = counts.get(key, 0.0) + count
    found = {
      f'eval_{key}': value / max(counts[key], 1.0)
      for key, value in sums.items()
      if key != 'weight'
    }
    return {'eval/loss': found.pop('eval_loss/preference'), **found}

  return evaluate
