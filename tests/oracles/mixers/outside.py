"""Implementations that nobody here wrote: where they are found, and the precision they are compared in.

Sources are named as in "fla ops/gla/naive.py:naive_recurrent_gla": a package, a file or module of it, and a name in that. Files of fla and
xlstm are loaded by themselves, since importing either package as a whole wants a GPU compiler.
"""
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import logging
import pathlib
import sys
import types
import typing
import unittest.mock

import torch

# All of them say float32 somewhere. Widened to float64 they must agree as well as our own equations do, and what is left is a
# difference of the equations.
TOLERANCE = 1e-9


class Absent(Exception):
    """Not installed here; the message says what is missing."""


@dataclasses.dataclass
class Outside:
    source: str
    adapt: typing.Callable  # what was loaded -> a core, or (what was loaded, case) -> output and state
    tolerance: float = TOLERANCE
    suits: typing.Callable = lambda case: True  # the options and windows that it knows

    def load(self):
        return load(self.source)


@contextlib.contextmanager
def in_double():
    """float32 means float64 inside: `.float()`, `torch.float32` and the default."""
    patch = unittest.mock.patch.object
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch(torch.Tensor, "float", torch.Tensor.double), patch(torch, "float32", torch.float64), patch(torch, "float", torch.float64):
            yield
    finally:
        torch.set_default_dtype(default)


@functools.lru_cache(maxsize=None)
def load(source):  # outside in_double()
    package, place = source.split(" ")
    path, name = place.split(":")
    try:
        return getattr(module_of(package, path), name)
    except (ImportError, RuntimeError) as error:
        raise Absent(f"{source}: {error}") from error


def module_of(package, path):
    if package == "transformers":
        return transformers(path)
    if package == "torch":
        return importlib.import_module("torch." + path)
    return file_of(package, path)


def file_of(package, path):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ImportError(f"{package} is not installed")
    file = pathlib.Path(spec.submodule_search_locations[0]) / path
    spec = importlib.util.spec_from_file_location("outside_" + path.replace("/", "_")[:-3], file)
    module = importlib.util.module_from_spec(spec)
    with without_kernels():
        spec.loader.exec_module(module)
    return module


class Kernel(types.ModuleType):
    """Stands for a module of GPU kernels: its names leave what they decorate as it is, and cannot be used for anything else."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def decorator(function, *more):
            assert isinstance(function, types.FunctionType) and not more, f"{self.__name__}.{name} wants a GPU"
            return function

        return decorator


def without_kernels():
    """What fla's files in plain torch import from beside them."""
    names = ("fla", "fla.modules", "fla.modules.activations", "fla.modules.layernorm", "fla.utils")
    return unittest.mock.patch.dict(sys.modules, {name: Kernel(name) for name in names})


def transformers(module):
    logging.getLogger("transformers").setLevel(logging.ERROR)  # it says at every call that it has no GPU kernels
    utils = importlib.import_module("transformers.utils")
    # Where the xlstm package is installed transformers uses its layer, which wants GPU kernels, instead of its own.
    with unittest.mock.patch.object(utils, "is_xlstm_available", lambda: False):
        return importlib.import_module("transformers.models." + module)


def called(module, tensors, x, **arguments):
    """A torch module with these tensors in place of its own; [T, D] to what it returns for a batch of one."""
    return torch.func.functional_call(module, tensors, (x[None],), arguments, strict=True)
