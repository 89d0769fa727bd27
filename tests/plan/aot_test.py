"""The compilers themselves: a tiny model for v5e and H200 that are not here.

In a process of its own, as `python -m rlaif_jax.plan` is run. Skipped where
the extra [aot] is not installed.
"""

import json
import os
import re
import subprocess
import sys

import pytest

from rlaif_jax import sharding
from rlaif_jax.plan import chips

pytestmark = [pytest.mark.aot, pytest.mark.slow]


def plan(repo, topology, *args):
  """(exit code, table rows by program, all that was printed)."""
  if module := chips.missing(topology):
    pytest.skip(f'{module} is not installed: pip install -e .[aot]')
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'rlaif_jax.plan',
      f'--topology={topology}',
      *args,
    ],
    cwd=repo,
    env={**os.environ, 'PYTHONPATH': str(repo)},
    capture_output=True,
    text=True,
  )
  lines = [x for x in done.stdout.splitlines() if x.startswith('| ')][2:]
  cells = [re.split(r'\s*\|\s*', line)[1:-1] for line in lines]
  return (
    done.returncode,
    {c[0]: c[1:] for c in cells},
    done.stdout + done.stderr,
  )


@pytest.mark.parametrize('topology', ['v5e:4x4', 'h200:8'])
@pytest.mark.parametrize(
  'config, programs',
  [
    ('sft', ['sft/step']),
    ('label', ['label/score labels']),
    ('reward', ['reward/step']),
    ('rl', ['rl/prefill', 'rl/decode', 'rl/score labels', 'rl/update']),
  ],
)
def test_every_program_compiles(repo, topology, config, programs):
  code, rows, text = plan(
    repo,
    topology,
    f'--config=configs/{config}.py:smoke',
    '--config.mesh.data=1',
    f'--config.mesh.fsdp={8 if topology == "h200:8" else 4}',
    f'--config.mesh.tensor={1 if topology == "h200:8" else 4}',
  )
  assert code == 0, text
  assert list(rows) == programs
  for cells in rows.values():
    assert cells[6] == 'yes'
    assert ' s (' in cells[9] or 'ms (' in cells[9]
  assert 'No involuntary full rematerialisation' in text


_LONG = dict(
  model_type='llama',
  vocab_size=1024,
  hidden_size=1024,
  intermediate_size=2048,
  num_hidden_layers=2,
  num_attention_heads=8,
  num_key_value_heads=2,
  max_position_embeddings=4096,
)


@pytest.mark.parametrize(
  'topology, kernel', [('v5e:2x2', 'splash'), ('h200:4', 'cudnn')]
)
def test_kernels_hold_no_scores(repo, tmp_path, topology, kernel):
  (tmp_path / 'config.json').write_text(json.dumps(_LONG))

  def activations(kernel):
    code, rows, text = plan(
      repo,
      topology,
      '--config=configs/sft.py',
      f'--config.model.path={tmp_path}',
      f'--config.model.attention={kernel}',
      '--config.model.dtype=bfloat16',
      '--config.model.remat=True',
      '--config.max_prompt=3968',
      '--config.max_response=128',
      '--config.batch_size=8',
      '--quick',
    )
    if re.search('cuDNN (is not detected|not found)', text):
      pytest.skip('cuDNN is not installed: pip install nvidia-cudnn-cu12')
    assert code == 0, text
    return float(rows['sft/step'][3])

  # Eight heads of 4096 x 4096 float32 scores are half a GiB. A chip has two
  # rows, since XLA holds the scores of some blocks of queries and not of all.
  found = activations(kernel)
  assert activations('auto') == found < activations('xla') - 0.5


def test_slices_lie_along_data():
  if module := chips.missing('v6e:8x8'):
    pytest.skip(f'{module} is not installed: pip install -e .[aot]')
  chips.prepare()
  devices = chips.load('v6e:8x8@2').devices
  assert len(devices) == 128
  # A mesh axis may be a part of an axis of the slice.
  mesh = sharding.make_mesh({'data': 4, 'fsdp': 16, 'tensor': 2}, devices)
  slices = [{d.slice_index for d in part.flat} for part in mesh.devices]
  assert slices == [{0}, {0}, {1}, {1}]
  with pytest.raises(ValueError, match='multiple of the 2 slices'):
    sharding.make_mesh({'data': 1, 'fsdp': 128}, devices)


_BAD_RULES = """
from ml_collections import ConfigDict
from configs import sft

def get_config():
  c = sft.get_config('smoke')
  rules = {'embed_table': 'fsdp', 'vocab_table': 'tensor'}
  c.sharding_rules = ConfigDict(rules)
  c.mesh.update(data=2, fsdp=4, tensor=2)
  return c
"""


def test_bad_rules_are_complained_of(repo, tmp_path):
  path = tmp_path / 'bad_rules.py'
  path.write_text(_BAD_RULES)
  _, _, text = plan(repo, 'v5e:4x4', f'--config={path}')
  assert 'Involuntary full rematerialisation:' in text


def test_what_does_not_fit_finds_another_mesh(repo):
  # Nine billion bfloat16 parameters, whole on every chip and then shared out.
  code, rows, text = plan(
    repo,
    'v5e:4x4',
    '--config=configs/label.py',
    '--config.labeler.path=gemma2_9b',
    '--config.labeler.dtype=bfloat16',
    '--config.labeler.max_tokens=128',
    '--config.labeler.batch_size=16',
    '--config.mesh.data=16',
    '--quick',
  )
  assert code == 3, text
  assert rows['label/score labels'][6] == '**no**'
  assert re.search(r'\| 1, 16, 1 \| yes \|', text), text


@pytest.mark.parametrize('topology', ['v5e:2x2', 'h200:4'])
def test_offloaded_weights_come_a_layer_at_a_time(repo, topology):
  """Five GB of weights whole on every chip; their largest part is a table."""
  size = {}
  for offload in (False, True):
    code, rows, text = plan(
      repo,
      topology,
      '--config=configs/label.py',
      '--config.labeler.path=gemma2_2b',
      '--config.labeler.dtype=bfloat16',
      '--config.labeler.max_tokens=128',
      '--config.labeler.batch_size=4',
      '--config.mesh.data=4',
      f'--config.labeler.offload={offload}',
    )
    assert code == 0, text
    params, *_, peak = rows['label/score labels'][:6]
    size[offload] = float(params), float(peak)
  assert size[False][0] > 4.8
  # What describes a GPU that is not there names no memory but its own.
  unknown = 'knows no host memory' in text
  assert unknown == topology.startswith('h200')
  if unknown:
    assert size[True] == size[False]
  else:
    assert size[True][0] == 0
    assert 1.1 < size[True][1] < size[False][1] - 3
