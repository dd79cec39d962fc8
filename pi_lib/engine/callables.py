"""What a callable is made of: the networks inside it, and digests of code, weights and data.

They walk through closures, partials, bound methods, defaults, the globals that code reads, and
the attributes of objects. Code of installed packages stands for itself by name and version.
"""

import builtins
import dis
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

INSTALLED = tuple({sysconfig.get_path(x) for x in ("stdlib", "platstdlib", "purelib", "platlib")})
MOST_OBJECTS = 10_000  # looked through for networks
_BEHAVIOUR = {"_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"}
_BOOKKEEPING = set(vars(nn.Module())) - _BEHAVIOUR
# Of a class, what is not behaviour; the last, copies and pickles leave behind.
_NO_BEHAVIOUR = {"__dict__", "__weakref__", "__doc__", "__module__", "__slotnames__"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), range, slice, Path)
_PLAIN += (torch.dtype, torch.device, torch.Size, np.generic)


def networks_in(model: Any) -> list[nn.Module]:
    """The torch modules that a callable uses, as far as they can be seen; itself, if it is one."""
    networks, waiting, seen = [], [model], {}
    while waiting and len(seen) < MOST_OBJECTS:
        x = waiting.pop(0)
        if id(x) in seen:
            continue
        seen[id(x)] = x
        if isinstance(x, nn.Module):
            networks.append(x)
        elif not isinstance(x, Tensor | type | types.ModuleType | np.ndarray):
            with suppress(Unidentified):
                waiting += parts(x)[1]
    return networks


def is_eager(model: Any) -> bool:
    """Whether a model is a module whose parts Python calls one by one: not compiled, not traced."""
    return isinstance(model, nn.Module) and not any(
        isinstance(x, torch.jit.ScriptModule)
        or hasattr(x, "_orig_mod")  # compiled, as in the next line
        or x._compiled_call_impl is not None
        for x in model.modules()
    )


def digest(*callables: Any) -> str:
    """64 hex digits that change with the code and data of callables: functions, modules, objects.

    An Unidentified if something in them shows neither code nor data.
    """
    sha, seen = hashlib.sha256(), {}

    def add(x):
        if isinstance(x, Tensor):
            return _update(sha, x)
        if not isinstance(x, _PLAIN):
            if id(x) in seen:
                sha.update(f"again {seen[id(x)][0]};".encode())
                return
            seen[id(x)] = len(seen), x  # held, so that its id is not used again
        text, inside = parts(x)
        sha.update(f"{type(x).__name__} {text} {len(inside)};".encode())
        for part in inside:
            add(part)

    add(callables)
    return sha.hexdigest()


def fingerprint(*parts: Any) -> str:
    """16 hex digits naming weights and data: modules, tensors, and JSON-like values of them."""
    sha = hashlib.sha256()

    def add(part):
        if isinstance(part, nn.Module):
            sha.update(repr(part).encode())
            add(part.state_dict())
        elif isinstance(part, Tensor):
            _update(sha, part)
        elif isinstance(part, dict):
            add([*part.items()])
        elif isinstance(part, list | tuple):
            sha.update(f"{len(part)} ".encode())
            for x in part:
                add(x)
        else:
            sha.update(f"{part!r} ".encode())

    add(parts)
    return sha.hexdigest()[:16]


def _update(sha, x: Tensor) -> None:
    """Take a tensor into a hash: its type, shape and bytes."""
    x = x.detach().cpu().contiguous()
    sha.update(f"{x.dtype} {tuple(x.shape)} ".encode())
    sha.update(x.flatten().view(torch.uint8).numpy())


class Unidentified(ValueError):
    """An object that shows neither code nor data."""


def parts(x: Any) -> tuple[str, list]:
    """What an object is by itself, as text, and the objects on which its behaviour depends."""
    if isinstance(x, _PLAIN):
        return repr(x), []
    if isinstance(x, list | tuple):
        return "", list(x)
    if isinstance(x, set | frozenset):
        return "", sorted(x, key=repr)
    if isinstance(x, dict | types.MappingProxyType):
        return "", [y for item in x.items() for y in item]
    if isinstance(x, np.ndarray) and x.dtype != object:
        return f"{x.dtype} {x.shape} {hashlib.sha256(x.tobytes()).hexdigest()}", []
    if isinstance(x, functools.partial):
        return "", [x.func, x.args, x.keywords]
    if isinstance(x, types.MethodType):
        return "", [x.__func__, x.__self__]
    if isinstance(x, staticmethod | classmethod):
        return "", [x.__func__]
    if isinstance(x, property | functools.cached_property):
        return "", [x.fget if isinstance(x, property) else x.func]
    if isinstance(x, types.CodeType):
        return f"{x.co_code.hex()} {x.co_names}", list(x.co_consts)
    kinds = {
        types.FunctionType: _function,
        types.ModuleType: _python_module,
        type: _class,
        torch.jit.ScriptModule | torch.jit.ScriptFunction: _script,
        nn.Module: _network,
    }
    return next((parts_of for kind, parts_of in kinds.items() if isinstance(x, kind)), _object)(x)


def _function(x: types.FunctionType) -> tuple[str, list]:
    cells = []
    for cell in x.__closure__ or ():
        with suppress(ValueError):  # of a name that is not bound yet
            cells.append(cell.cell_contents)
    inside = [*cells, x.__defaults__, x.__kwdefaults__]
    if x.__code__.co_filename.startswith(INSTALLED):
        return _installed(x), inside
    names = sorted({name for name in _globals_read(x.__code__) if name in x.__globals__})
    consts = [c for c in x.__code__.co_consts if c is None or c != x.__doc__]
    text = f"{x.__code__.co_code.hex()} {x.__code__.co_names}"
    return text, [consts, *inside, names, *(x.__globals__[name] for name in names)]


def _globals_read(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _globals_read(const)


def _class(x: type) -> tuple[str, list]:
    file = getattr(sys.modules.get(x.__module__), "__file__", None) or ""
    ours = x.__module__ == "__main__" or not file.startswith(INSTALLED)
    if not ours or getattr(builtins, x.__name__, None) is x:
        forward = vars(x).get("forward")  # put there by the user, maybe
        code = getattr(forward, "__code__", None)
        patched = code is not None and not code.co_filename.startswith(INSTALLED)
        return _installed(x), [forward] if patched else []
    names = sorted(set(vars(x)) - _NO_BEHAVIOUR)
    slots = types.MemberDescriptorType | types.GetSetDescriptorType
    own = [y for name in names for y in (name, vars(x)[name]) if not isinstance(y, slots)]
    return x.__qualname__, [x.__bases__, *own]


def _python_module(x: types.ModuleType) -> tuple[str, list]:
    file = getattr(x, "__file__", None)
    if not file or file.startswith(INSTALLED):
        return _installed(x), []
    return f"{x.__name__} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}", []


def _script(x: torch.jit.ScriptModule | torch.jit.ScriptFunction) -> tuple[str, list]:
    return hashlib.sha256(x.save_to_buffer()).hexdigest(), []


def _network(x: nn.Module) -> tuple[str, list]:
    if hasattr(x, "_orig_mod"):  # compiled
        return "", [x._orig_mod]
    own = {name: y for name, y in vars(x).items() if name not in _BOOKKEEPING}
    hooks = {name: list(own.pop(name).values()) for name in _BEHAVIOUR if name.endswith("hooks")}
    return "", [type(x), own, hooks]


def _object(x: Any) -> tuple[str, list]:
    if callable(x) and hasattr(x, "__qualname__") and not hasattr(x, "__wrapped__"):  # built in
        return _installed(x), []
    slots = [name for base in type(x).__mro__ for name in getattr(base, "__slots__", ())]
    own = {name: getattr(x, name) for name in slots if hasattr(x, name)}
    if own := own | getattr(x, "__dict__", {}):
        return "", [type(x), own]
    try:
        reduced = x.__reduce_ex__(4)  # as it would be pickled: what is behind it may not be Python
    except Exception:
        raise Unidentified(f"{x!r}, which shows neither code nor data") from None
    return "", [type(x), *(list(y) if isinstance(y, Iterator) else y for y in reduced)]


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", ""))


def _installed(x: Any) -> str:
    module = getattr(x, "__module__", None) or getattr(x, "__name__", "")
    name = getattr(x, "__qualname__", "")
    return f"{module}.{name} {_version(module.partition('.')[0])}"
