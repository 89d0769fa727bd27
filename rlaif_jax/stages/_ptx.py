"""PPO-ptx: next-token learning on other texts in each update of the policy.

InstructGPT (arXiv 2203.02155, equation 2 and appendix C.4): to the RL objective
comes gamma E_{x ~ D_pretrain}[log p(x)], whose gradient is accumulated with
that of each minibatch, so that what the model knew is not lost. Here log p(x)
is the mean over all tokens of the texts. Any algorithm can have it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from rlaif_jax.core.types import Params, TokenBatch
from rlaif_jax.data import pipeline, transforms
from rlaif_jax.stages import _reference, common, sft
from rlaif_jax.training import step


def config() -> ConfigDict:
  """The block: off; 8 texts an episode are InstructGPT's, and gamma 27.8."""
  return ConfigDict(
    dict(
      coef=0.0,  # gamma; 0 = off
      ratio=8,  # texts for each episode
      # A row is one text: its prompt, and its response if it has one.
      data=common.data_config('', 'train'),
    )
  )


def check(block: ConfigDict) -> None:
  """Raises ValueError for a block that cannot be."""
  if not block.coef >= 0:
    raise ValueError(f'config.ptx.coef={block.coef} is below 0')
  if block.coef and not block.data.name:
    raise ValueError(
      f'config.ptx.coef={block.coef}, but there are no texts: set '
      'config.ptx.data.name (and .path), or coef to 0'
    )
  if block.ratio < 1:
    raise ValueError(f'config.ptx.ratio={block.ratio}; it must be at least 1')


def make_texts(
  config: ConfigDict, loaded: common.Loaded
) -> Callable[[int], TokenBatch | None]:
  """texts(step) -> this host's texts, leaves [B, ratio, T]; None if off.

  One that is longer than prompt and response may be together is cut there.
  """
  block = config.ptx
  if not block.coef:
    return lambda at: None
  rows, tokenizer = common.load_examples(block.data), loaded.tokenizer
  length = config.max_prompt + config.max_response

  def texts(at: int) -> TokenBatch:
    numbers = pipeline.batch_indices(
      config.seed, at, config.batch_size * block.ratio, len(rows),
      process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    chosen = [rows[i] for i in numbers]
    starts = tokenizer.encode_batch([e.prompt for e in chosen])
    ends = transforms.continuation_ids(
      [e.response or '' for e in chosen],
      tokenizer,
      [e.separator for e in chosen],
    )
    tokens, mask = transforms.right_pad(
      [a + b for a, b in zip(starts, ends, strict=True)],
      length,
      tokenizer.pad_id,
      overflow='truncate',
    )
    shape = (-1, block.ratio, length)
    tokens, mask = tokens.reshape(shape), mask.reshape(shape)
    return TokenBatch(tokens=tokens, mask=mask, loss_mask=mask)

  return texts


def make_add(config: ConfigDict, model) -> Callable:
  """add(gradients, trained, frozen, texts) -> (gradients, metrics).

  To the policy's gradients comes that of gamma times the texts' mean negative
  log-probability; the texts are `make_texts`' or rows of them.
  """
  loss_fn = sft.make_loss(model, config.max_response, prompt_loss=1.0)

  def nll(
    trained: Params, frozen: _reference.Frozen, texts: TokenBatch
  ) -> tuple[Float[Array, ''], dict]:
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), texts)
    loss, metrics = loss_fn(frozen.policy_params(trained), flat, None)
    return loss, {'loss/ptx': loss, 'weight': metrics['weight']}

  grad_fn = jax.grad(nll, has_aux=True)

  def add(grads: Params, trained: Params, frozen: _reference.Frozen, texts):
    more, metrics = step.accumulate(
      lambda params, part: grad_fn(params, frozen, part),
      trained,
      texts,
      config.num_microbatches,
    )
    grads = jax.tree.map(
      lambda g, m: g + jnp.asarray(config.ptx.coef, g.dtype) * m, grads, more
    )
    return grads, metrics

  return add
