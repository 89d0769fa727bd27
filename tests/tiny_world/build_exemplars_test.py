"""The exemplars that ship are those that the program writes."""

import json

from rlaif_jax.labeler import prompts
from rlaif_jax.models import locate
from rlaif_jax.tiny_world import build_exemplars


def test_what_ships_is_what_is_built(tmp_path):
  build_exemplars.main(tmp_path)
  for task in prompts.TASKS:
    name = f'{task}.json'
    built = (tmp_path / name).read_text()
    assert built == (build_exemplars.FOLDER / name).read_text()
    rows = json.loads(built)
    assert [row['better'] for row in rows].count(1) == 4
    assert len(rows) == 8


def test_they_load_by_name():
  folder = locate.resolve('tiny:exemplars')
  prompt = prompts.load_prompt('harmless_base_cot_2shot', folder)
  assert len(prompt.exemplars) == 2
  assert prompt.exemplars[0].rationale.startswith('Response 1 - ')
