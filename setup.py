"""Packaging of rlaif_jax; `pip install -e .[test]` for development."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).resolve().parent


def _version() -> str:
  """The version string of rlaif_jax/__init__.py, read without importing it."""
  text = (_ROOT / 'rlaif_jax' / '__init__.py').read_text(encoding='utf-8')
  match = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
  if match is None:
    raise ValueError("rlaif_jax/__init__.py: no line __version__ = '...'")
  return match.group(1)


def _readme() -> str:
  """README.md, or nothing where it is left out (a bare source copy)."""
  path = _ROOT / 'README.md'
  return path.read_text(encoding='utf-8') if path.exists() else ''


setuptools.setup(
  name='rlaif_jax',
  version=_version(),
  description=(
    'Reinforcement learning from AI feedback in JAX: LM labeler, reward '
    'model, REINFORCE and direct RLAIF, from laptops to TPU pods.'
  ),
  long_description=_readme(),
  long_description_content_type='text/markdown',
  author='The rlaif_jax authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['rlaif_jax', 'rlaif_jax.*']),
  package_data={
    'rlaif_jax': [
      'labeler/exemplars/*.json',
      'rating/templates/*',
      'report/templates/*',
      'tiny_world/**/*.json',
      'tiny_world/**/*.safetensors',
    ]
  },
  install_requires=[
    'absl-py>=2.1',
    'chex>=0.1.90',
    'datasets>=4.0',
    'flax>=0.12',
    'grain>=0.2.12',
    'httpx2>=2.0',
    'importlib_resources>=6.0',
    'jax>=0.10,<0.12',
    'jaxtyping>=0.3',
    'jinja2>=3.1',
    'ml-collections>=1.0',
    'numpy>=2.0',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.30',
    'protobuf>=5.0',
    'rich>=13.7',
    'safetensors>=0.5',
    'sentencepiece>=0.2',
    'tensorflow-datasets>=4.9.9',
    'transformers>=5.0',
  ],
  extras_require={
    'test': [
      'beartype>=0.21',
      'ipykernel>=6.29',
      'nbclient>=0.10',
      'pytest>=8.3',
      'pytest-xdist>=3.6',
      'ruff>=0.12',
      'scipy>=1.14',
      'tensorboardX>=2.6.2',
    ],
    # Compilers for chips that are not here, for `python -m rlaif_jax.plan`.
    'aot': [
      'jax[tpu]',
      'jax-cuda12-plugin>=0.10,<0.12',
      'nvidia-cuda-nvcc-cu12>=12.6',
    ],
    'tpu': ['jax[tpu]'],
    'cuda12': ['jax[cuda12]'],
    'tensorboard': ['tensorboardX>=2.6.2'],
    'wandb': ['wandb>=0.19'],
  },
  classifiers=[
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
