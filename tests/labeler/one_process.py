"""Scores a few texts as one of several processes; run by labeler_test.

python one_process.py PORT NUM_PROCESSES PROCESS_ID
"""

import json
import sys

import jax

from rlaif_jax import host, models, sharding
from rlaif_jax.data.tokenizer import load_tokenizer
from rlaif_jax.labeler.in_mesh import InMeshLabeler
from rlaif_jax.models import locate


def main(port: str, count: int, index: int):
  host.add_threads(2)
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', 2)
  if count > 1:
    jax.distributed.initialize(f'localhost:{port}', count, index)
  tokenizer = load_tokenizer(locate.resolve('tiny:tokenizer'))
  model = models.build(
    dict(
      model_type='llama',
      vocab_size=tokenizer.vocab_size,
      hidden_size=16,
      intermediate_size=16,
      num_hidden_layers=1,
      num_attention_heads=2,
      max_position_embeddings=256,
      rms_norm_eps=1e-5,
      tie_word_embeddings=True,
    )
  )
  mesh = sharding.make_mesh(dict(fsdp=2))
  with jax.set_mesh(mesh):
    where = sharding.shardings(
      model.param_axes(), model.abstract_params(), mesh
    )
    params = jax.jit(model.init, out_shardings=where)(jax.random.key(0))
    labeler = InMeshLabeler(model, params, tokenizer, batch_size=4)
    texts = ['a cat ' * size + '=' for size in (5, 1, 9, 3, 7, 2, 8)]
    scores = labeler.score_texts(texts, ('1', '2'))
  print(json.dumps(scores.tolist()))


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
