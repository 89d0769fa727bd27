import importlib.util
import pathlib

import pytest


@pytest.fixture(scope='session')
def toy():
  """The module toy_run.py, which tests also start as a program."""
  file = pathlib.Path(__file__).with_name('toy_run.py')
  spec = importlib.util.spec_from_file_location('toy_run', file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
