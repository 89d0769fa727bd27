"""Trains a labeler (and base model) of the tiny world, from scratch.

By next-token prediction only, step by step. `lookup`: on posts of two
sentences it learns to look words up in a text and to mark statements as right
or wrong. `base`: it learns to write mediocre responses, as any language model
of this world would. `judge`: it gets its full depth, and learns to grade and
compare summaries of short posts. `early` and `labeler`: it learns to answer the
project's own labeling prompts with noisy verdicts and grades, on subreddits and
dialogues that no other stage uses. It never sees the oracle's numbers, only
what a noisy rater wrote. The smallest size is also what SFT starts from, as
PaLM 2 XS is in the paper.
"""

import dataclasses
import re
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
# '*_text' for responses, '*_marks' for responses with each statement marked
# right or wrong, '*_rated' for responses with their readers' grade. 'short' is
# a summary of a post of two sentences.
LOOKUP_MIX = {'short_text': 0.3, 'short_marks': 0.7}
JUDGE_MIX = {'short_marks': 0.3, 'short_score': 0.4, 'short_base': 0.3}
BASE_MIX = {'summary_text': 0.55, 'dialogue_text': 0.25, 'summary_marks': 0.2}
EARLY_MIX = {
  'summary_base': 0.34,
  'summary_score': 0.24,
  'summary_marks': 0.12,
  'summary_detailed': 0.03,
  'summary_text': 0.06,
  'helpful_base': 0.05,
  'helpful_score': 0.03,
  'helpful_marks': 0.02,
  'harmless_base': 0.05,
  'harmless_score': 0.03,
  'dialogue_text': 0.03,
}
LABELER_MIX = {
  'summary_base': 0.32,
  'summary_score': 0.18,
  'summary_rated': 0.13,
  'summary_marks': 0.10,
  'summary_detailed': 0.04,
  'summary_text': 0.06,
  'helpful_base': 0.04,
  'helpful_score': 0.02,
  'helpful_marks': 0.02,
  'harmless_base': 0.04,
  'harmless_score': 0.02,
  'dialogue_text': 0.03,
}
# In an order that stays as it is: a kind's place seeds its rows.
KINDS = tuple(
  dict.fromkeys((*EARLY_MIX, *LOOKUP_MIX, *JUDGE_MIX, *LABELER_MIX))
)

_MARKS = (
  'Read the text, then mark what is said as right or wrong.\n\n{}\n\nSAID:'
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
  c.mix = ConfigDict(EARLY_MIX, sort_keys=False)
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
      loaded = grown(s, common.load_policy(config.model, s))
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


def grown(s: common.Session, loaded: common.Loaded) -> common.Loaded:
  """`loaded` with as many layers as `config.architecture` asks for.

  The new ones go on top and add nothing at first, so that the larger model
  starts with what the smaller one has learned.
  """
  model = loaded.model
  count = s.config.architecture.num_hidden_layers - model.config.num_layers
  if count == 0:
    return loaded
  if count < 0:
    raise ValueError(
      f'config.architecture.num_hidden_layers: {loaded.path} has '
      f'{model.config.num_layers} layers, and layers can only be added'
    )
  new = models.with_options(model, num_layers=count).init(
    jax.random.key(s.config.seed)
  )['layers']
  for branch, last in (('attention', 'out'), ('mlp', 'down')):
    new[branch][last] = jax.tree.map(jnp.zeros_like, new[branch][last])
  model = models.with_options(
    model, num_layers=s.config.architecture.num_hidden_layers
  )
  layers = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]), loaded.params['layers'], new
  )
  where = sharding.shardings(
    model.param_axes(), model.abstract_params(), s.mesh, s.rules
  )
  params = jax.device_put({**loaded.params, 'layers': layers}, where)
  return dataclasses.replace(loaded, model=model, params=params)


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
  dialogue = task in ('helpful', 'harmless', 'dialogue')
  module = datasets.load_module('tiny_dialogue' if dialogue else 'tiny_tldr')
  # Every kind has rows of its own: no post is seen twice.
  row_seed = seed * len(KINDS) + KINDS.index(kind)
  rng = np.random.default_rng([seed, row_seed])
  make = _maker(kind, form, module, slot_bias, rng)
  rows = _rows(module, task, count, row_seed)
  if task == 'short':
    rows = (_shortened(row, module, rng) for row in rows)
  return [
    dataclasses.replace(make(row), id=f'{kind}-{i}')
    for i, row in enumerate(rows)
  ]


def _rows(module, task: str, count: int, seed: int) -> Sequence[Example]:
  parts = {'dialogue': ('helpful', 'harmless')}.get(task, (task,))
  rows = []
  for part in parts:
    options = {'task': part} if part in ('helpful', 'harmless') else {}
    rows += module.load(
      None, 'labeler', size=count // len(parts), seed=seed, **options
    )
  return rows


def _shortened(row: Example, module, rng) -> Example:
  """The same kind of row, with two facts and nothing else in its post.

  Looking words up is learned from these in a tenth of the time that posts of
  full length take, and carries over to them.
  """
  slots = sorted(row.meta['facts'])
  slots = [slots[i] for i in rng.permutation(len(slots))[:2]]
  facts = {slot: row.meta['facts'][slot] for slot in slots}
  text = ' '.join(module.write_facts(facts, rng))
  plain = module.Quality(0.8, 0.4, 0.2, 0.0, 0.0, 0.0, 0.0)
  one = two = module.write_summary(facts, rng, plain)
  while one == two:
    two = module.write_summary(facts, rng, plain)
  return dataclasses.replace(
    row,
    prompt=f'{text}\n\nTL;DR:',
    response=module.write_summary(facts, rng),
    pair=(one, two),
    fields={'text': text},
    meta={**row.meta, 'facts': facts},
  )


def _maker(
  kind: str, form: str, module, slot_bias: float, rng
) -> Callable[[Example], Example]:
  """Turns a labeler row into a training text of one kind."""
  if form == 'text':
    return lambda row: row
  if form == 'marks':
    return lambda row: marked(row, row.pair[int(rng.random() < 0.5)], module)
  if form == 'rated':
    return lambda row: rated(row, module, rng)
  prompt = prompts.load_prompt(kind.replace('short', 'summary'))

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
    # The grades come after the verdict, where they cannot give it away; they
    # say far more about the two responses than one verdict does.
    grades = [module.noisy_score(row, response, rng) for response in row.pair]
    verdict = prompt.labels[0 if first else 1]
    return Example(
      row.id,
      text,
      response=f'{verdict} {grades[0]},{grades[1]}',
      separator='',
    )

  return score if form == 'score' else compare


def rated(row: Example, module, rng) -> Example:
  """A response where the forum has it, and the grade that readers gave it."""
  response = row.pair[int(rng.random() < 0.5)]
  grade = module.noisy_score(row, response, rng)
  return Example(
    row.id,
    f'{row.prompt} {response}\n\nSCORE=',
    response=str(grade),
    separator='',
  )


def marked(row: Example, response: str, module) -> Example:
  """The response with 'right' or 'wrong' after each statement of a value.

  Right is what the text says too, so the mark is next to what it is about:
  telling it apart needs no count of statements.
  """
  facts = row.meta['facts']
  parts = []
  for part in re.findall('[^.,]+[.,]?', response):
    said = part.rstrip('.,')
    values = [v for c in module.read(row, said).clauses for v in c.values]
    if values:
      true = all(facts.get(slot) == value for slot, value in values)
      said += ' right' if true else ' wrong'
    parts.append(said.strip() + part[len(part.rstrip('.,')) :])
  (text,) = row.fields.values()
  return Example(row.id, _MARKS.format(text), response=' '.join(parts))
