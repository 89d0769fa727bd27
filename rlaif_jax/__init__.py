"""RLAIF in JAX: AI feedback, reward models and RL for language models.

After Lee et al., RLAIF vs. RLHF (arXiv 2309.00267). The command line is
`python -m rlaif_jax.main --config=... --workdir=...`.
"""

__version__ = '0.1.0'
