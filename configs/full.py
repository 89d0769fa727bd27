"""The main job at full scale: 2B to 9B models on TPU slices and GPU nodes.

The pipeline of configs/paper.py with its settings (2309.00267, App. E-G: batch
128, 1024 + 128 tokens, Adafactor), computed in bfloat16 with layers recomputed
in the backward pass, on the mesh that `python -m rlaif_jax.plan` found:

python -m rlaif_jax.plan --topology=v5e:4x4 \\
    --config=configs/full.py:model=gemma2_2b,topology=v5e:4x4
python -m rlaif_jax.main --workdir=runs/full \\
    --config=configs/full.py:model=gemma2_2b,topology=v5e:4x4

Decoding has its weights whole on every chip, put together once a rollout
(`sampler.gather`). What the largest program takes of a chip's memory, in GiB,
with everything that is beside it, reward model or labeler included: the RL
update on v5e, decoding on the others (of gemma2_9b and of the last two with
`--only=rlaif/update` and `--only=rlaif/decode` alone). The whole table is what
the first command prints.

  gemma2_2b  v5e:4x4    data 1, fsdp 16, tensor 1   13.0 of 15.75
  gemma2_9b  v5p:2x2x4  data 1, fsdp 16, tensor 1   29.8 of 95.74
  llama3_8b  h200:8     data 1, fsdp 8, tensor 1    35.3 of 126.90
  llama3_8b  v5p:2x2x4  data 1, fsdp 16, tensor 1   24.2 of 95.74
  qwen3_8b   v6e:8x8    data 1, fsdp 64, tensor 1   17.8 of 31.25
"""

import dataclasses
import math
import re

from configs import common, paper


@dataclasses.dataclass(frozen=True)
class Model:
  """Hub ids of a policy and of the labeler beside it."""

  policy: str
  labeler: str


MODELS = {
  'gemma2_2b': Model('google/gemma-2-2b', 'google/gemma-2-9b-it'),
  'gemma2_9b': Model('google/gemma-2-9b', 'google/gemma-2-9b-it'),
  'llama3_8b': Model(
    'meta-llama/Meta-Llama-3-8B', 'meta-llama/Meta-Llama-3-8B-Instruct'
  ),
  'qwen3_8b': Model('Qwen/Qwen3-8B', 'Qwen/Qwen3-8B'),
}

# (model, topology) -> (data, fsdp, tensor), as the plan found it.
MESHES = {
  ('gemma2_2b', 'v5e:4x4'): (1, 16, 1),
  ('gemma2_9b', 'v5p:2x2x4'): (1, 16, 1),
  ('llama3_8b', 'v5p:2x2x4'): (1, 16, 1),
  ('llama3_8b', 'h200:8'): (1, 8, 1),
  ('qwen3_8b', 'v6e:8x8'): (1, 64, 1),
}


def get_config(arg: str = ''):
  """`model`: one of MODELS; `topology`: as the plan's, with a mesh in MESHES;
  `task`: as in configs/paper.py.
  """
  args = common.parse_arg(
    arg, model='gemma2_2b', topology='v5e:4x4', task='tldr'
  )
  key = args['model'], args['topology']
  if args['model'] not in MODELS:
    raise ValueError(
      f'model={args["model"]!r} is unknown; there are: {", ".join(MODELS)}'
    )
  model = MODELS[args['model']]
  c = paper.get_config(
    f'task={args["task"]},model={model.policy},labeler={model.labeler}'
  )
  every = chips(args['topology'])
  data, fsdp, tensor = MESHES.get(key, (1, every, 1))
  c.mesh.update(dict(data=data, fsdp=fsdp, tensor=tensor))
  for step in c.steps.values():
    large(step, data * fsdp)
  return c


def chips(topology: str) -> int:
  """How many chips 'v5e:4x4', 'h200:8' or 'v5e:4x4@2' (slices) stands for."""
  numbers = re.findall('[0-9]+', topology.partition(':')[2])
  if not numbers:
    raise ValueError(
      f'topology={topology!r} says no number of chips; write v5e:4x4, or h200:8'
    )
  return math.prod(map(int, numbers))


def large(c, chips: int) -> None:
  """Settings of a stage that models of billions of parameters need."""
  for name in ('model', 'policy'):
    if name in c:
      c[name].dtype, c[name].remat = 'bfloat16', True
  for name in ('labeler', 'reward', 'judge'):
    if name in c and 'dtype' in c[name]:
      c[name].dtype, c[name].batch_size = 'bfloat16', chips
  if 'sampler' in c:
    c.sampler.gather = True
  if 'num_microbatches' in c:
    c.num_microbatches = max(1, c.batch_size // (2 * chips))
