"""Hashes of plain data that stay the same from process to process."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np


def stable_hash(obj: Any) -> str:
  """Hash of plain data, 16 hex digits, the same in every process.

  Args:
    obj: None, bool, number, text, or lists, tuples, mappings and dataclasses
      of such. Tuples count as lists; the order of keys does not matter.

  Raises:
    TypeError: anything else.
  """
  text = json.dumps(obj, sort_keys=True, default=plain, ensure_ascii=False)
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def plain(obj: Any) -> Any:
  """One level of `obj` as what JSON can hold; TypeError if it cannot."""
  if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
    return {f.name: getattr(obj, f.name) for f in dataclasses.fields(obj)}
  if isinstance(obj, Mapping):
    return dict(obj)
  if isinstance(obj, np.generic | np.ndarray):
    return obj.tolist()
  if isinstance(obj, os.PathLike):
    return os.fspath(obj)
  raise TypeError(f'cannot hash or store a {type(obj).__name__}')
