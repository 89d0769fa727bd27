"""The labeler of a `reward` block, for rewards that ask one."""

from rlaif_jax.labeler import in_mesh


def load(config, *, mesh, rules) -> in_mesh.InMeshLabeler:
  """The labeler at `config.path`, as the block wants it."""
  return in_mesh.load(
    config.path,
    mesh=mesh,
    rules=rules,
    dtype=config.dtype,
    param_dtype=config.param_dtype,
    offload=config.offload,
    max_tokens=config.max_tokens,
    batch_size=config.batch_size,
  )
