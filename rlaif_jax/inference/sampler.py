"""What samples responses: ours, or an engine of its own."""

from typing import Protocol

from jaxtyping import Array, Int

from rlaif_jax.core import types


class Sampler(Protocol):
  """Samples one response per prompt.

  `decode.make_generate` and `compact.make_generate` give one; an external
  engine is another class with this method. What callers rely on:

  * It samples from `params` as they are in this call: RL changes them at every
    step, so an engine that keeps a copy takes the new ones first.
  * Responses are padded at the right with mask False; a token that ends one
    belongs to it. `logprobs` are those of the distribution sampled from.
  * Other keys, and other row ids, give other samples, so that a prompt may
    stand in several rows. With our samplers a row's sample is a pure function
    of (params, prompt, key, row id), which makes restarts exact; an engine that
    cannot promise this loses that and nothing else.
  """

  def __call__(
    self,
    params: types.Params,
    prompts: types.PromptBatch,
    key: types.Key,
    row_ids: Int[Array, ' B'] | None = None,
  ) -> types.Rollout:
    """The prompts with their responses.

    Args:
      params: of the model that the sampler was made for.
      prompts: B left-padded prompts; a row without a real token gets an empty
        response.
      key: of this call.
      row_ids: [B] int32, the rows' places in the whole batch over all hosts;
        default 0..B-1.
    """
    ...
