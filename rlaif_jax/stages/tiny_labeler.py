"""Trains a labeler (and base model) of the tiny world, from scratch.

By next-token prediction only, in two steps. `base`: it learns to write
mediocre responses, as any language model of this world would. `labeler`: it
learns to answer the project's own labeling prompts with noisy verdicts and
grades, and to say of each statement of a response whether the text supports
it, on subreddits and dialogues that no other stage uses. It never sees the
oracle's numbers, only what a noisy rater wrote. The smallest size is also the
base that SFT starts from, as PaLM 2 XS is in the paper.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rlaif_jax import models, sharding
from rlaif_jax.data import datasets
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.data.datasets import Example
from rlaif_jax.labeler import prompts, template
from rlaif_jax.models import locate
from rlaif_jax.stages import common, sft

# Share of the training texts of each kind: a labeling prompt by its name,
# '*_text' for responses, 'summary_check' for statements against the text.
BASE_MIX = {'summary_text': 0.7, 'dialogue_text': 0.3}
LABELER_MIX = {
  'summary_base': 0.26,
  'summary_score': 0.20,
  'summary_check': 0.20,
  'summary_detailed': 0.03,
  'summary_text': 0.08,
  'helpful_base': 0.06,
  'helpful_score': 0.04,
  'harmless_base': 0.06,
  'harmless_score': 0.03,
  'dialogue_text': 0.04,
}
KINDS = tuple(LABELER_MIX)  # the place of a kind here seeds its rows

_CHECK = (
  'Read the text and its SUMMARY, then say right or wrong for each statement.'
  '\n\n{text}\n\nSUMMARY: {response}\n\nCHECK:'
)


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
  c.mix = ConfigDict(LABELER_MIX, sort_keys=False)
  c.model.path = ''  # '' = from scratch
  c.data.name = 'tiny_tldr'
  c.group_by_length = True
  return c


def run(config: ConfigDict, workdir) -> None:
  """Trains one labeler; leaves it in `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    texts = make_texts(
      config.mix.to_dict(), config.num_texts, config.seed, config.slot_bias
    )
    if config.model.path:
      loaded = common.load_policy(config.model, s)
    else:
      loaded = from_scratch(s, config)
    fit = int(0.98 * len(texts))
    sft.fit(s, loaded, texts[:fit], texts[fit:])


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
  params = init(jax.random.key(config.seed))
  return common.Loaded(model, look_and_copy(params), tokenizer, path)


def look_and_copy(params):
  """Starts every attention as 'look at tokens like me and copy them'.

  Keys equal queries, and the output projection is the transpose of an
  orthogonal value projection. Judging a summary is looking its words up in
  the text: from here the circuit for that forms in hundreds of steps, from a
  random start in many thousands, which models this small do not get.
  """
  attention = params['layers']['attention']
  value = attention['value']['kernel']  # [L, D, H, h]
  layers, width, heads, size = value.shape
  copy = jax.random.orthogonal(jax.random.key(layers), width, (layers,))
  copy = copy[..., : heads * size].reshape(layers, width, heads, size)
  start = {
    'query': attention['query'],
    'key': {'kernel': attention['query']['kernel'] + 0.0},
    'value': {'kernel': copy},
    'out': {'kernel': 0.5 * jnp.transpose(copy, (0, 2, 3, 1))},
  }
  layer = {**params['layers'], 'attention': start}
  return {**params, 'layers': layer}


def make_texts(
  mix: Mapping[str, float], count: int, seed: int, slot_bias: float
) -> list[Example]:
  """Training texts in the shares of `mix`, in a fixed random order."""
  texts = []
  for kind, share in mix.items():
    texts += _texts_of(kind, int(share * count), seed, slot_bias)
  order = np.random.default_rng(seed).permutation(len(texts))
  return [texts[i] for i in order]


def _texts_of(kind: str, count: int, seed: int, slot_bias: float):
  task, form = kind.split('_')
  name = 'tiny_tldr' if task == 'summary' else 'tiny_dialogue'
  module = datasets.load_module(name)
  # Every kind has rows of its own: no post is seen twice.
  row_seed = seed * len(KINDS) + KINDS.index(kind)
  make = _maker(
    kind, form, module, slot_bias, np.random.default_rng([seed, row_seed])
  )
  return [
    dataclasses.replace(make(row), id=f'{kind}-{i}')
    for i, row in enumerate(_rows(module, task, count, row_seed))
  ]


def _rows(module, task: str, count: int, seed: int) -> Sequence[Example]:
  tasks = {'summary': (None,), 'dialogue': ('helpful', 'harmless')}
  rows = []
  for part in tasks.get(task, (task,)):
    options = {} if part is None else {'task': part}
    size = count // len(tasks.get(task, (task,)))
    rows += module.load(None, 'labeler', size=size, seed=seed, **options)
  return rows


def _maker(
  kind: str, form: str, module, slot_bias: float, rng
) -> Callable[[Example], Example]:
  """Turns a labeler row into a training text of one kind."""
  if form == 'text':
    return lambda row: row
  if form == 'check':
    return lambda row: _checked(row, row.pair[int(rng.random() < 0.5)], module)
  prompt = prompts.load_prompt(kind)

  def score(row: Example) -> Example:
    response = row.pair[int(rng.random() < 0.5)]
    grade = module.noisy_score(row, response, rng)
    text = template.render(prompt, row.fields, (response,))
    return Example(
      row.id, text, response=prompt.labels[grade - 1], separator=''
    )

  def compare(row: Example) -> Example:
    first = module.noisy_verdict(row, rng, slot_bias=slot_bias)
    if prompt.prefers == 'worse':
      first = not first
    text = template.render(prompt, row.fields, row.pair)
    return Example(
      row.id, text, response=prompt.labels[0 if first else 1], separator=''
    )

  return score if form == 'score' else compare


def _checked(row: Example, response: str, module) -> Example:
  """A text that says of each statement whether the post holds it."""
  facts = row.meta['facts']
  answers = [
    'right'
    if all(facts.get(slot) == v for slot, v in clause.values)
    else 'wrong'
    for clause in module.GRAMMAR.parse(response).clauses
  ]
  return Example(
    row.id,
    _CHECK.format(text=row.fields['text'], response=response),
    response=' '.join(answers) or 'wrong',
  )
