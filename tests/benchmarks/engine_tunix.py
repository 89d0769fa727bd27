"""The Tunix side of the engine benchmark: its Sampler.

  pip install google-tunix              # in an environment of its own

It reads the folder that torch wrote, for the shapes of Qwen3. Its sampler
chooses greedily unless it is given top_p, so that sampling here is top_p 1.
Its PPO step is not measured yet.
"""

import engine_common as common
import jax
import jax.numpy as jnp
import numpy as np
import transformers
from flax import nnx  # noqa: F401  tunix needs it to be loaded first
from tunix.generate import sampler as sampler_lib
from tunix.models.qwen3 import model as model_lib
from tunix.models.qwen3 import params as params_lib


def generate(folder, shape, dtype):
  """Sampling; its first turn also gives greedy tokens."""
  config = model_lib.ModelConfig(
    num_layers=shape.layers,
    vocab_size=shape.vocab,
    embed_dim=shape.width,
    hidden_dim=shape.mlp or 4 * shape.width,
    num_heads=shape.heads,
    head_dim=shape.width // shape.heads,
    num_kv_heads=shape.kv_heads or shape.heads,
    rope_theta=10000,
    norm_eps=1e-6,
    use_tied_embedding=True,
    dtype=getattr(jnp, dtype),
    param_dtype=getattr(jnp, dtype),
  )
  mesh = jax.make_mesh(
    (1, 1),
    ('fsdp', 'tp'),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:1],
  )
  path = str(folder / 'policy')
  model = params_lib.create_model_from_safe_tensors(path, config, mesh)
  sampler = sampler_lib.Sampler(
    model,
    transformers.AutoTokenizer.from_pretrained(path),
    sampler_lib.CacheConfig(
      cache_size=shape.prompt + shape.new,
      num_layers=shape.layers,
      num_kv_heads=config.num_kv_heads,
      head_dim=config.head_dim,
    ),
  )
  texts = [common.text(row) for row in common.prompts(shape)]
  count = iter(range(10**9))

  def run(**options):
    found = sampler(
      texts,
      max_generation_steps=shape.new,
      max_prompt_length=shape.prompt,
      eos_tokens=[2],
      seed=next(count),
      pad_output=True,
      **options,
    )
    return np.asarray(found.tokens)

  def step():
    run(temperature=common.TEMPERATURE, top_p=1.0)

  def first():
    return dict(tokens=run(temperature=0.0).tolist())

  return step, first


def main():
  args = common.worker_args(__doc__.split('\n')[0])
  shape = common.SHAPES[args.shape]
  common.take_turns(lambda: generate(args.folder, shape, args.dtype))


if __name__ == '__main__':
  main()
