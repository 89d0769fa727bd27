"""Attention of whole rows by kernels that never hold T x T scores.

On TPUs Pallas' splash attention, on NVIDIA GPUs cuDNN's; the platform is that
of the mesh, so that a program may be compiled for another one. Passes with a
cache, a shared prefix or a tree of tokens need masks of their own and keep
`products.attention`, as everything does where no kernel is fit.

Real tokens go to the front of their row before the first layer, and back after
the last one. Being causal then hides padding from them, and windows that count
real tokens count slots: no kernel needs an array to tell who sees whom.

Splash compiles for v5e and, interpreted, equals `products.attention`; cuDNN's
compiles for H200, and its call equals it where XLA answers. Neither has been
run on a chip.
"""

import functools
import math

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from rlaif_jax import sharding
from rlaif_jax.models import cache as cache_lib
from rlaif_jax.models import products
from rlaif_jax.models.config import ModelConfig

_LANES = 128  # splash's tiles are multiples of this
_BLOCK = 512  # its largest tile, in tokens
_KERNELS = {'tpu': 'splash', 'gpu': 'cudnn'}


@flax.struct.dataclass
class Causal:
  """A token sees itself and those before it, `bound` tokens in all.

  Attributes:
    kernel: 'splash' or 'cudnn'.
    bounds: of all layers, each once, ascending.
    branch: which of them is this layer's; None outside of layers.
  """

  kernel: str = flax.struct.field(pytree_node=False)
  bounds: tuple[int, ...] = flax.struct.field(pytree_node=False)
  branch: Int[Array, ''] | None = None

  def within(self, window: Int[Array, '']) -> 'Causal':
    """That of a layer with this window; 0 sees all."""
    last = self.bounds[-1]
    bound = jnp.where((window == 0) | (window > last), last, window)
    return self.replace(branch=jnp.argmax(jnp.array(self.bounds) == bound))


def choose(c: ModelConfig, length: int) -> Causal | None:
  """What attends in rows of `length` tokens; None is `products.attention`.

  Left to itself ('auto') it is the kernel of the platform where that can do
  what the model asks for, and rows are not too short to matter.

  Raises:
    ValueError: the config names a kernel that cannot.
  """
  platform = cache_lib.platform()
  auto = c.attention == 'auto'
  kernel = _KERNELS.get(platform, 'xla') if auto else c.attention
  if kernel == 'xla' or (auto and length < _LANES):
    return None
  lacks = _splash_lacks if kernel == 'splash' else _cudnn_lacks
  if reason := lacks(c, length, platform):
    if auto:
      return None
    raise ValueError(f"attention={kernel!r}: {reason}; use 'auto' or 'xla'")
  bounds = {min(w or length, length) for w in c.windows or (0,)}
  return Causal(kernel, tuple(sorted(bounds)))


def real_first(mask: Bool[Array, 'B T']) -> Int[Array, 'B T']:
  """Slots of each row, those of real tokens first, otherwise in order."""
  return jnp.argsort(~mask, axis=1, stable=True)


def attend(
  query: Float[Array, 'B T H h'],
  key: Float[Array, 'B T K h'],
  value: Float[Array, 'B T K h'],
  sight: Causal,
  *,
  scale: float | Array,
  softcap: float | None = None,
  rules: sharding.Rules | None = None,
) -> Float[Array, 'B T H h']:
  """As `layers.attend`, by a kernel that each device runs on its own heads.

  Every query sees itself, so that padding, too, gets something finite.
  """
  query = (query.astype(jnp.float32) * scale).astype(query.dtype)
  kernel = _splash if sight.kernel == 'splash' else _cudnn
  branches = [
    functools.partial(kernel, bound=bound, softcap=softcap)
    for bound in sight.bounds
  ]

  def run(branch, *arrays):
    return jax.lax.switch(branch, branches, *arrays)

  mesh = jax.sharding.get_abstract_mesh()
  if not mesh.empty:
    spec = sharding.spec(query.shape, 'batch', None, 'heads', None, rules=rules)
    local = NamedSharding(mesh, spec).shard_shape(query.shape)[2]
    shards = query.shape[2] // local
    # Where key/value heads are fewer than shards, each shard has a copy of the
    # one that its query heads share.
    copies = math.lcm(key.shape[2], shards) // key.shape[2]
    if copies > 1:
      key, value = (jnp.repeat(x, copies, axis=2) for x in (key, value))
    run = jax.shard_map(
      run,
      in_specs=(PartitionSpec(), spec, spec, spec),
      out_specs=spec,
      check_vma=False,
    )
  return run(sight.branch, query, key, value)


def _splash(query, key, value, *, bound: int, softcap: float | None):
  """Pallas' kernel for TPUs; on a CPU it is interpreted, which is slow."""
  # Imported here: where no kernel runs, nobody waits for it.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  length, heads = query.shape[1:3]
  count = -(-length // _BLOCK)
  block = _LANES * -(-length // (count * _LANES))
  shape = (count * block, count * block)
  mask = splash.CausalMask(shape)
  if bound < length:
    mask = splash.LocalMask(shape, (bound - 1, 0), 0)
  kernel = splash.make_splash_mha(
    splash.MultiHeadMask([mask] * heads),
    block_sizes=splash.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    attn_logits_soft_cap=softcap,
    head_shards=1,
    q_seq_shards=1,
    residual_checkpoint_name=products.SAVED,
    interpret=cache_lib.platform() == 'cpu',
  )
  pad = ((0, 0), (0, 0), (0, shape[0] - length), (0, 0))
  arrays = (jnp.pad(x.swapaxes(1, 2), pad) for x in (query, key, value))
  return jax.vmap(kernel)(*arrays)[:, :, :length].swapaxes(1, 2)


def _cudnn(
  query, key, value, *, bound: int, softcap: None, implementation='cudnn'
):
  """cuDNN's kernel; `implementation` is there for tests without a GPU."""
  del softcap
  return jax.nn.dot_product_attention(
    query,
    key,
    value,
    scale=1.0,
    is_causal=True,
    local_window_size=(bound - 1, 0) if bound < query.shape[1] else None,
    implementation=implementation,
  )


def _splash_lacks(c: ModelConfig, length: int, platform: str) -> str:
  """Why splash cannot attend; '' if it can."""
  del length
  if platform not in ('tpu', 'cpu'):
    return f'splash is a kernel for TPUs, and this is a {platform}'
  if c.dtype not in ('float32', 'bfloat16'):
    return f'splash does not compute in {c.dtype}'
  return ''


def _cudnn_lacks(c: ModelConfig, length: int, platform: str) -> str:
  """Why cuDNN cannot attend; '' if it can.

  JAX knows what the kernel needs (a type, a head size, the library).
  """
  if platform != 'gpu':
    return f'cuDNN is for GPUs, and this is a {platform}'
  if c.attention_softcap is not None:
    return 'cuDNN does not cap scores'
  query, key = (
    jax.ShapeDtypeStruct((1, length, heads, c.head_dim), c.dtype)
    for heads in (c.num_heads, c.num_kv_heads)
  )
  try:
    run = functools.partial(_cudnn, bound=length, softcap=None)
    jax.eval_shape(run, query, key, key)
  except (RuntimeError, ValueError) as error:
    return f'JAX says: {str(error).rstrip(".")}'
  return ''
