"""Writes tests/models/fixtures/: tiny random checkpoints and what they compute.

Needs torch and transformers, which the tests do not:

  python tests/models/make_fixtures.py [NAME ...]

Names are those of fixture_configs.py; none stands for all of them. A folder
`<family>_<variant>` holds what `save_pretrained` writes, and reference.npz with
three rows of ids, each run alone and without padding: `tokens_i` [T],
`logits_i` [T, V] and `greedy_i` [20] continued greedily, or `scores` [3] for a
reward model.
"""

import json
import pathlib
import sys

import fixture_configs as configs
import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent / 'fixtures'
LENGTHS = (20, 13, 6)
NEW_TOKENS = 20


@torch.no_grad()
def randomise(model, seed):
  """Weights large enough that a wrong detail shows; biases not zero."""
  generator = torch.Generator().manual_seed(seed)
  less_one = 'gemma' in model.config.model_type  # how it stores norm scales
  for name, p in model.named_parameters():
    noise = torch.randn(p.shape, generator=generator)
    if p.ndim == 1:
      is_scale = name.endswith('weight')
      p.copy_(0.3 * noise + (1 if is_scale and not less_one else 0))
    elif 'wte' in name or 'wpe' in name or 'embed' in name:
      p.copy_(0.7 * noise)
    else:
      p.copy_(1.3 * noise * 32**-0.5)


@torch.no_grad()
def greedy(model, ids):
  """Continues greedily with whole forward passes; None at a near tie."""
  ids = torch.tensor(ids)[None]
  start = ids.shape[1]
  for _ in range(NEW_TOKENS):
    best = model(ids, use_cache=False).logits[0, -1].topk(2)
    if best.values[0] - best.values[1] < 1e-2:
      return None
    ids = torch.cat([ids, best.indices[:1][None]], dim=1)
  return ids[0, start:].numpy().astype(np.int32)


def rows():
  """The same three rows for every model, ids 3 and up."""
  rng = np.random.default_rng(0)
  return [rng.integers(3, configs.VOCAB, n).astype(np.int32) for n in LENGTHS]


def save(name, model, older, arrays):
  """Writes a fixture; `older` replaces transformers 5's rope keys.

  A value of `...` in it removes a key.
  """
  folder = FOLDER / name
  model.save_pretrained(folder)
  if older is not None:
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    config.pop('rope_parameters')
    config['torch_dtype'] = config.pop('dtype')
    config['transformers_version'] = '4.46.0'
    config = {k: v for k, v in (config | older).items() if v is not ...}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')
  (folder / 'model.safetensors').chmod(0o644)
  np.savez_compressed(folder / 'reference.npz', **arrays)


@torch.no_grad()
def language_arrays(model, first_seed):
  """Reference of a language model, whose weights it draws."""
  for seed in range(first_seed, first_seed + 100):
    randomise(model, seed)
    arrays = {}
    for i, ids in enumerate(rows()):
      batch = torch.tensor(ids)[None].long()
      arrays[f'tokens_{i}'] = ids
      arrays[f'logits_{i}'] = model(batch).logits[0].numpy()
      arrays[f'greedy_{i}'] = greedy(model, ids.astype(np.int64))
    spread = arrays['logits_0'].std()
    if spread > 1 and all(a is not None for a in arrays.values()):
      print(f'{model.config.model_type}: logits std {spread:.2f}')
      return arrays
  raise RuntimeError('no weights without near ties')


@torch.no_grad()
def reward_arrays(model, seed):
  """Reference of a reward model, whose weights it draws."""
  randomise(model, seed)
  arrays = {f'tokens_{i}': ids for i, ids in enumerate(rows())}
  batches = [torch.tensor(ids)[None].long() for ids in rows()]
  scores = np.array([model(b).logits.item() for b in batches])
  print(f'{model.config.model_type}: scores {scores}')
  return arrays | {'scores': scores}


def main(only):
  """Writes the named fixtures, or all."""
  for i, (name, (cls, config, older)) in enumerate(
    configs.causal_lms().items()
  ):
    if not only or name in only:
      print(name, end=' ', flush=True)
      model = cls(config).eval()
      save(name, model, older, language_arrays(model, 1000 * i))
  for i, (name, (cls, config)) in enumerate(configs.reward_models().items()):
    if not only or name in only:
      model = cls(config).eval()
      save(name, model, None, reward_arrays(model, i))


if __name__ == '__main__':
  main(sys.argv[1:])
