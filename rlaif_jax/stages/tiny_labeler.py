"""Trains a labeler (and base model) of the tiny world, from scratch.

By next-token prediction only: it learns to answer the project's own labeling
prompts with noisy verdicts and grades, and to write mediocre responses, on
subreddits and dialogues that no other stage uses. It never sees the oracle's
numbers, only what a noisy rater wrote. The smallest size is also the base
that SFT starts from, as PaLM 2 XS is in the paper.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import models, sharding
from rlaif_jax.data import datasets
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import prompts, template
from rlaif_jax.models import locate
from rlaif_jax.stages import common, sft

# Share of the training texts of each kind.
MIX = {
  'summary_base': 0.30,
  'summary_score': 0.24,
  'summary_detailed': 0.06,
  'summary_text': 0.08,
  'helpful_base': 0.08,
  'helpful_score': 0.05,
  'harmless_base': 0.08,
  'harmless_score': 0.05,
  'dialogue_text': 0.06,
}


def default_config() -> ConfigDict:
  """Config of one labeler; configs/tiny_labelers.py has the three sizes."""
  c = sft.default_config()
  c.stage = 'tiny_labeler'
  c.architecture = ConfigDict(
    dict(
      model_type='llama',
      hidden_size=64,
      intermediate_size=192,
      num_hidden_layers=2,
      num_attention_heads=4,
      num_key_value_heads=4,
      max_position_embeddings=1024,
      rope_theta=10000.0,
      rms_norm_eps=1e-5,
      tie_word_embeddings=True,
    )
  )
  c.tokenizer = 'tiny:tokenizer'
  c.num_texts = 60000
  c.slot_bias = 0.3  # log-odds by which raters favour the first response
  c.model.path = 'scratch'
  c.data.name = 'tiny_tldr'
  c.group_by_length = True
  return c


def run(config: ConfigDict, workdir) -> None:
  """Trains one labeler; leaves it in `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    texts = make_texts(config.num_texts, config.seed, config.slot_bias)
    fit = int(0.98 * len(texts))
    sft.fit(s, from_scratch(s, config), texts[:fit], texts[fit:])


def from_scratch(s: common.Session, config: ConfigDict) -> common.Loaded:
  """A freshly initialised model of `config.architecture` on the mesh."""
  path = locate.resolve(config.tokenizer)
  tokenizer = tokenizer_lib.load_tokenizer(path)
  model = models.build(
    {
      **config.architecture.to_dict(),
      'vocab_size': tokenizer.vocab_size,
      'bos_token_id': tokenizer.bos_id,
      'eos_token_id': tokenizer.eos_id,
      'pad_token_id': tokenizer.pad_id,
    }
  )
  where = sharding.shardings(
    model.param_axes(), model.abstract_params(), s.mesh, s.rules
  )
  init = jax.jit(model.init, out_shardings=where)
  return common.Loaded(
    model, init(jax.random.key(config.seed)), tokenizer, path
  )


def make_texts(count: int, seed: int, slot_bias: float) -> list[Example]:
  """Training texts in the shares of `MIX`, in a fixed random order."""
  texts = []
  for kind, share in MIX.items():
    rng = np.random.default_rng([seed, len(texts)])
    texts += _texts_of(kind, int(share * count), seed, slot_bias, rng)
  order = np.random.default_rng(seed).permutation(len(texts))
  return [texts[i] for i in order]


def _texts_of(kind, count, seed, slot_bias, rng) -> list[Example]:
  task, form = kind.split('_')
  name = 'tiny_tldr' if task == 'summary' else 'tiny_dialogue'
  module = datasets.load_module(name)
  make = _maker(kind, form, module, slot_bias, rng)
  # Rows of one kind start where those of another end: no post twice.
  rows = _rows(module, task, form, count, seed)
  return [
    dataclasses.replace(make(row), id=f'{kind}-{i}')
    for i, row in enumerate(rows)
  ]


def _rows(module, task, form, count, seed) -> Sequence[Example]:
  options = {
    'size': count,
    'seed': seed * 100 + list(MIX).index(f'{task}_{form}'),
  }
  if task in ('helpful', 'harmless'):
    return module.load(None, 'labeler', task=task, **options)
  if task == 'dialogue':
    half = {**options, 'size': count // 2}
    return [
      *module.load(None, 'labeler', task='helpful', **half),
      *module.load(None, 'labeler', task='harmless', **half),
    ]
  return module.load(None, 'labeler', **options)


def _maker(
  kind: str, form: str, module, slot_bias: float, rng
) -> Callable[[Example], Example]:
  """Turns a labeler row into a training text of one kind."""
  if form == 'text':
    return lambda row: row
  prompt = prompts.load_prompt(kind)

  def score(row: Example) -> Example:
    response = row.pair[int(rng.random() < 0.5)]
    grade = module.noisy_score(row, response, rng)
    text = template.render(prompt, row.fields, (response,))
    return Example(row.id, text, response=str(grade), separator='')

  def compare(row: Example) -> Example:
    first = module.noisy_verdict(row, rng, slot_bias=slot_bias)
    if prompt.prefers == 'worse':
      first = not first
    text = template.render(prompt, row.fields, row.pair)
    return Example(row.id, text, response='1' if first else '2', separator='')

  return score if form == 'score' else compare
