"""What every stage does first and last: config blocks, models, data, outputs.

A stage leaves its product as a Hugging Face folder in `workdir/model`, so the
next stage (and transformers, vLLM or TRL) takes it by path. Paths in configs
may be: a Hugging Face folder, a hub id, a workdir of an earlier stage, or
`tiny:NAME` for what ships with the package.
"""

import contextlib
import dataclasses
import inspect
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
from ml_collections import ConfigDict

from rlaif_jax import models, sharding
from rlaif_jax.data import datasets, pipeline, transforms
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.tokenizer import Tokenizer
from rlaif_jax.inference.sampling import SamplingConfig
from rlaif_jax.models import heads, hf, locate, lora, peft
from rlaif_jax.stages import _lora, _options
from rlaif_jax.training import checkpoint as checkpoint_lib
from rlaif_jax.training import metrics as metrics_lib
from rlaif_jax.training import optimizer as optimizer_lib
from rlaif_jax.training import workdir as workdir_lib

# Keys that may change between two runs of one workdir: they alter what is
# shown or where it runs, never what is computed.
RUNTIME_KEYS = ('debug', 'log_every', 'tensorboard', 'wandb')

console = rich.console.Console(stderr=True, highlight=False)


# -- config blocks ----------------------------------------------------------


def base_config(stage: str) -> ConfigDict:
  """Fields shared by all stages."""
  c = ConfigDict()
  c.stage = stage  # rlaif_jax/stages/<stage>.py
  c.seed = 0  # data order, initialisation and sampling follow from it
  c.mesh = ConfigDict(dict(data=-1, fsdp=1, tensor=1))  # one may be -1
  c.sharding_rules = ConfigDict()  # logical axis -> mesh axis, over defaults
  c.log_every = 10  # steps between log lines; metrics.jsonl has every step
  c.tensorboard = False  # needs the extra [tensorboard]
  c.wandb = False  # needs the extra [wandb]
  c.debug = False  # tracebacks, and checks for NaNs and bad rollouts
  return c


def data_config(name: str, split: str, path: str = '') -> ConfigDict:
  """A data set: `rlaif_jax/data/datasets/<name>.py`, its path and split."""
  c = ConfigDict()
  c.name = name
  c.path = path  # local file or folder, hub id, or tfds:NAME; '' if built in
  c.split = split
  c.size = 0  # use the first `size` examples; 0 = all
  # Further arguments of load(): --config.data.options="{'holdout': 0.1}"
  c.options = ConfigDict(convert_dict=False)
  c.overflow = 'error'  # prompts over max_prompt: 'error', 'truncate' or 'skip'
  return c


def model_config(path: str) -> ConfigDict:
  """A language model to start from."""
  c = ConfigDict()
  c.path = path  # see the module docstring
  c.dtype = 'float32'  # compute type; parameters stay float32
  c.remat = False  # recompute activations in the backward pass
  c.attention = 'auto'  # xla, splash (TPU) or cudnn (GPU); auto: by platform
  c.lora = _lora.config()
  return c


def optimizer_config(learning_rate: float, name: str = 'adafactor'):
  """Optimiser block; Adafactor at 1e-5 is the paper's (App. G)."""
  c = ConfigDict()
  c.name = name
  c.learning_rate = learning_rate
  c.warmup_steps = 0
  c.schedule = 'constant'  # or 'cosine', 'linear', down to the last step
  c.end_share = 0.0  # share of the learning rate that these end at
  c.weight_decay = 0.0
  c.b1 = 0.9
  c.b2 = 0.999
  c.eps = 1e-8
  c.clip_norm = 1.0  # global gradient norm; 0 = no clipping
  return c


def sampling_config(temperature: float = 0.9) -> ConfigDict:
  """Decoding block; T = 0.9 is the paper's for RL (App. G)."""
  return ConfigDict(
    dict(temperature=temperature, top_k=0, top_p=1.0, greedy=False)
  )


def checkpoint_config(every: int) -> ConfigDict:
  """Checkpoint block."""
  return ConfigDict(dict(every=every, keep_latest=2, keep_best=1))


# -- sessions ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Session:
  """An opened workdir with its mesh."""

  workdir: pathlib.Path
  config: ConfigDict
  mesh: jax.sharding.Mesh
  rules: Mapping[str, Any]


@contextlib.contextmanager
def session(config: ConfigDict, workdir) -> Iterator[Session | None]:
  """Opens `workdir` for `config`; yields None when the stage is finished.

  Raises:
    ValueError: made by another config, or a field of this one is wrong.
  """
  _options.check_fields(config)
  with open_run(config, workdir) as path:
    if workdir_lib.finished(path) is not None:
      say(f'{path}: finished before, nothing to do')
      yield None
      return
    mesh = sharding.make_mesh(config.mesh.to_dict())
    _options.check_batch(config, sharding.row_parts(mesh))
    rules = {**sharding.DEFAULT_RULES, **config.sharding_rules.to_dict()}
    with jax.set_mesh(mesh), jax.debug_nans(config.debug):
      yield Session(path, config, mesh, rules)
    sharding.wait_for_all(str(path))  # the next stage reads what this one wrote


@contextlib.contextmanager
def open_run(
  config: ConfigDict, workdir, ignore: Sequence[str] = RUNTIME_KEYS
) -> Iterator[pathlib.Path]:
  """The workdir of a run, as training/workdir.py opens it.

  A new run that fails before it made anything leaves no config.json behind.
  """
  new = not (pathlib.Path(workdir or '') / 'config.json').exists()
  path = workdir_lib.open_workdir(workdir, config.to_dict(), ignore=ignore)
  workdir_lib.record_environment(path)
  try:
    yield path
  except Exception:
    if new and jax.process_index() == 0:
      workdir_lib.leave_unmade(path)
    raise


def say(text: str) -> None:
  """One line for the person at the terminal, from process 0 only."""
  if jax.process_index() == 0:
    console.print(text, soft_wrap=True)
    sys.stderr.flush()


def writer_for(s: Session) -> metrics_lib.MetricWriter:
  """The stage's metric writer."""
  return metrics_lib.MetricWriter(
    s.workdir, tensorboard=s.config.tensorboard, wandb=s.config.wandb
  )


def checkpointer_for(
  s: Session, best_metric: str | None = None, best_mode: str = 'max'
) -> checkpoint_lib.Checkpointer:
  """The stage's checkpointer under `workdir/checkpoints`."""
  return checkpoint_lib.Checkpointer(
    s.workdir / 'checkpoints',
    keep_latest=s.config.checkpoint.keep_latest,
    keep_best=s.config.checkpoint.keep_best,
    best_metric=best_metric,
    best_mode=best_mode,
  )


def make_optimizer(block: ConfigDict, num_steps: int):
  """optax transformation from an optimiser block."""
  options = {**block.to_dict(), 'total_steps': num_steps}
  return optimizer_lib.make_optimizer(
    _options.build(optimizer_lib.OptimizerConfig, options, 'config.optimizer')
  )


def make_sampling(block: ConfigDict) -> SamplingConfig:
  """Decoding options from a sampling block."""
  return _options.build(SamplingConfig, block.to_dict(), 'config.sampling')


# -- models and data --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model with its parameters on the mesh and its tokenizer."""

  model: Any
  params: Any
  tokenizer: Tokenizer
  path: str


def load_policy(block: ConfigDict, s: Session, **held: Any) -> Loaded:
  """A model block's model and adapters; `held` as hf.load, over the block's."""
  path = locate.resolve(block.path)
  held = {'dtype': _lora.base_dtype(block), **held}
  model, params = hf.load(path, mesh=s.mesh, rules=s.rules, **held)
  model = models.with_options(model, **_options.running(block))
  model, params = _lora.start(block, model, params, s.config.seed)
  return Loaded(model, params, tokenizer_lib.load_tokenizer(path), path)


def load_reward_model(path: str, s: Session) -> Loaded:
  """Reward model (scalar head) from a stage's workdir or a HF folder."""
  path = locate.resolve(path)
  model, params = hf.load_reward_model(path, mesh=s.mesh, rules=s.rules)
  return Loaded(model, params, tokenizer_lib.load_tokenizer(path), path)


def load_examples(block: ConfigDict) -> list[datasets.Example]:
  """Examples of a data block, the first `size` of them.

  The option `side`, 'chosen' or 'rejected', of any data set with pairs makes
  that one the response.
  """
  options = dict(block.options)
  side = options.pop('side', '')
  load = inspect.signature(datasets.load_module(block.name).load)
  known = list(load.parameters)[2:]
  _options.check_known(options, known, f'{block.name}.options')
  if block.size:
    options['size'] = block.size
  examples = datasets.load_dataset(
    block.name, block.path or None, block.split, **options
  )
  return datasets.take_side(examples, side) if side else list(examples)


def fit_prompts(
  examples: Sequence[datasets.Example],
  tokenizer: Tokenizer,
  max_prompt: int,
  overflow: str,
  source: str,
) -> list[datasets.Example]:
  """Applies the overflow policy to prompts over `max_prompt` tokens.

  'error' raises ValueError naming the first such row of `source`, 'truncate'
  cuts it (see `truncate_query`), 'skip' leaves the row out.
  """
  if overflow not in ('error', 'truncate', 'skip'):
    raise ValueError(
      f"config.data.overflow={overflow!r}; use 'error', 'truncate' or 'skip'"
    )
  kept = []
  for example, ids in zip(
    examples, tokenizer.encode_batch([e.prompt for e in examples]), strict=True
  ):
    if len(ids) <= max_prompt:
      kept.append(example)
    elif overflow == 'truncate':
      prompt = transforms.truncate_query(
        example.prompt, max_prompt, tokenizer, f'{source}: row {example.id}'
      )
      kept.append(dataclasses.replace(example, prompt=prompt))
    elif overflow == 'error':
      raise ValueError(
        f'{source}: row {example.id}: its prompt has {len(ids)} tokens, more '
        f'than max_prompt={max_prompt}; raise config.max_prompt or set '
        "config.data.overflow to 'truncate' or 'skip'"
      )
  if not kept:
    raise ValueError(
      f'{source}: no row is left, every prompt has over {max_prompt} tokens'
    )
  if len(kept) < len(examples):
    say(f'{len(examples) - len(kept)} prompts over {max_prompt} tokens skipped')
  return kept


def load_prompts(block: ConfigDict, tokenizer: Tokenizer, max_prompt: int):
  """Examples of a data block whose prompts fit; see `fit_prompts`."""
  return fit_prompts(
    load_examples(block), tokenizer, max_prompt, block.overflow, source(block)
  )


def source(block: ConfigDict) -> str:
  """What messages call a data block: its path, or name where it has none."""
  return block.path or block.name


def check_context(model, **lengths: int) -> None:
  """Raises ValueError when the lengths together exceed the model's context."""
  limit = model.config.max_positions
  if sum(lengths.values()) > limit:
    parts = ' + '.join(f'{k}={v}' for k, v in lengths.items())
    raise ValueError(
      f'{parts} = {sum(lengths.values())} tokens, but the model reads at most '
      f'{limit}; lower them in the config'
    )


def export_model(s: Session, loaded: Loaded, model, params) -> None:
  """Writes `workdir/model`, adapters merged, and these to `workdir/adapter`."""
  if model.config.lora is not None:
    peft.save(s.workdir / _lora.FOLDER, model, params, loaded.path)
  hf.save(s.workdir / 'model', *lora.merge(model, params), loaded.tokenizer)


def scalar_from(loaded: Loaded, s: Session, key) -> tuple[Any, Any]:
  """Value or reward model whose trunk starts at `loaded`, sharded alike.

  Returns (ScalarModel, params). What will be trained is a copy, so that both
  can be donated to their own update; what is frozen is shared.
  """
  model = heads.ScalarModel(loaded.model)
  where = sharding.shardings(
    model.param_axes(), model.abstract_params(), s.mesh, s.rules
  )
  init = jax.jit(
    lambda *args: lora.split(model, model.init_from(*args))[1],
    out_shardings=lora.split(model, where)[1],
  )
  frozen, _ = lora.split(model, {'trunk': heads.trunk_part(loaded.params)})
  return model, lora.join(frozen, init(loaded.params, key))


def host_share(batch_size: int) -> np.ndarray:
  """Places in the global batch that are this host's, int32.

  Also the rows' part of their sampling keys, so that what a row gets does not
  depend on how many hosts there are.
  """
  index, count = jax.process_index(), jax.process_count()
  return pipeline.host_share(batch_size, index, count).astype(np.int32)
