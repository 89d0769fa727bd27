"""Who judges the policies in an evaluation: oracle, labeler or reward model."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import sharding
from rlaif_jax.data import datasets, pipeline
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import direct, in_mesh, prompts
from rlaif_jax.rewards import reward_model
from rlaif_jax.stages import common
from rlaif_jax.training import workdir as workdir_lib

NAMES = ('oracle', 'labeler', 'reward_model', 'none')

Judge = Callable[[Sequence[str]], np.ndarray]


def check(config: ConfigDict) -> None:
  """What can be known to be wrong with `config.judge` before it is loaded.

  Raises:
    ValueError: there is no such judge or prompt, it has no path, or the data
      has no oracle.
  """
  block = config.judge
  if block.name not in NAMES:
    *most, last = map(repr, NAMES)
    raise ValueError(
      f'config.judge.name={block.name!r}; use {", ".join(most)} or {last}'
    )
  module = datasets.load_module(config.data.name)
  if block.name == 'oracle' and not hasattr(module, 'oracle'):
    raise ValueError(
      f'data set {config.data.name!r} has no oracle; set config.judge.name to '
      "'labeler', 'reward_model' or 'none'"
    )
  if block.name == 'labeler':
    prompts.load_prompt(block.prompt)
  if block.name in ('labeler', 'reward_model') and not block.path:
    raise ValueError(
      f'config.judge.path is empty: name the {block.name} that judges'
    )


def describe(config: ConfigDict) -> dict:
  """Name of the judge, and how good it is as far as that is known.

  A reward model that the reward stage left says what it reached on the pairs
  that were held out from it.
  """
  block = config.judge
  found = {'name': block.name}
  if block.name == 'labeler':
    found |= {'of': pathlib.Path(block.path).name, 'prompt': block.prompt}
  if block.name == 'reward_model':
    found['of'] = pathlib.Path(block.path).name
    if (pathlib.Path(block.path) / 'config.json').is_file():
      found |= workdir_lib.finished(block.path) or {}
  return found


def make(s: common.Session, examples: Sequence[Example]) -> Judge | None:
  """judge(responses) -> scores [n], higher is better; None for 'none'."""
  block = s.config.judge
  if block.name == 'none':
    return None
  if block.name == 'oracle':
    oracle = datasets.load_module(s.config.data.name).oracle
    return lambda texts: np.array(
      [oracle(e, t) for e, t in zip(examples, texts, strict=True)]
    )
  if block.name == 'reward_model':
    return by_reward_model(s, examples)
  labeler = in_mesh.load(
    block.path,
    mesh=s.mesh,
    rules=s.rules,
    dtype=block.dtype,
    max_tokens=block.max_tokens,
    batch_size=block.batch_size,
  )
  prompt = prompts.load_prompt(block.prompt)
  fields, ids = [e.fields for e in examples], [e.id for e in examples]
  return lambda texts: direct.score_responses(
    labeler, prompt, fields, texts, ids=ids
  )


def by_reward_model(s: common.Session, examples: Sequence[Example]) -> Judge:
  """Scores less their mean over the comparisons it was trained on, over std.

  So 0 is as good as the average response of those comparisons.
  """
  block, size = s.config.judge, s.config.judge.batch_size
  model = reward_model.make(
    block, policy_tokenizer=None, mesh=s.mesh, rules=s.rules
  )
  examples = common.fit_prompts(
    examples,
    model.tokenizer,
    s.config.max_prompt,
    s.config.data.overflow,
    common.source(s.config.data),
  )

  def judge(texts: Sequence[str]) -> np.ndarray:
    scores = []
    for rows, _ in pipeline.eval_batches(len(texts), size):
      found = model.score_texts(
        [examples[i] for i in rows], [texts[i] for i in rows]
      )
      scores.append(sharding.to_host(found))
    return np.concatenate(scores)[: len(texts)]

  return judge
