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

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rlaif_jax import models, sharding
from rlaif_jax.data import tokenizer as tokenizer_lib
from rlaif_jax.models import locate
from rlaif_jax.stages import _tiny_texts, common, sft


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
  c.mix = ConfigDict(_tiny_texts.LABELER_MIX, sort_keys=False)
  c.model.path = ''  # '' = from scratch
  c.data.name = 'tiny_tldr'
  c.group_by_length = True
  return c


def run(config: ConfigDict, workdir) -> None:
  """Trains one labeler; leaves it in `workdir/model`."""
  with common.session(config, workdir) as s:
    if s is None:
      return
    texts = _tiny_texts.make_texts(
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
