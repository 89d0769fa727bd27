"""Writes the tiny world's exemplars: eight clear cases of each task.

The rows are the labelers' own kind, of a seed that nothing else uses; which
response is better is what a noisy rater says where the two are far apart.

Usage: python -m rlaif_jax.tiny_world.build_exemplars [folder]
"""

import json
import pathlib
import sys

import numpy as np

from rlaif_jax.data import datasets
from rlaif_jax.labeler import prompts
from rlaif_jax.stages import _tiny_texts

FOLDER = pathlib.Path(__file__).parent / 'exemplars'
SEED = 424242
COUNT = 8
CLEAR = 0.2  # least difference of the two in the oracle


def build(task: str) -> list[dict]:
  """Exemplars of one task, either place being better in half of them."""
  name = 'summary' if task == 'summarization' else task
  module = datasets.load_module(
    'tiny_tldr' if name == 'summary' else 'tiny_dialogue'
  )
  options = {} if name == 'summary' else {'task': task}
  rng = np.random.default_rng(SEED)
  prompt = prompts.load_prompt(f'{name}_base_cot')
  left, found = {1: COUNT // 2, 2: COUNT // 2}, []
  for row in module.load(None, 'labeler', size=400, seed=SEED, **options):
    made = _tiny_texts.exemplar(row, prompt, module, rng)
    first, second = (module.oracle(row, text) for text in made.responses)
    better = 1 if first > second else 2
    if abs(first - second) < CLEAR or not left[better]:
      continue
    left[better] -= 1
    found.append(
      {
        'fields': dict(made.fields),
        'responses': list(made.responses),
        'better': better,
        'rationale': made.rationale,
      }
    )
  return found


def main(folder: pathlib.Path = FOLDER) -> None:
  """Writes <task>.json for every task."""
  folder.mkdir(parents=True, exist_ok=True)
  for task in prompts.TASKS:
    text = json.dumps(build(task), indent=1, ensure_ascii=False) + '\n'
    (folder / f'{task}.json').write_text(text, encoding='utf-8')


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
