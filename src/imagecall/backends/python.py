"""Backend of a Python module: the return value of a function or class without arguments."""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from imagecall.generation.backend import Backend

_URI: Final = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<factory>[^\W\d]\w*)")
_METHODS: Final = ("generate_image", "stream_image", "close")


def is_factory(uri: str) -> bool:
    """Returns True for the form PACKAGE.MODULE:FACTORY."""
    return _URI.fullmatch(uri) is not None


def backend_from_factory(uri: str) -> Backend:
    """Imports the module, also from the working directory, and calls the factory.

    Raises ValueError with a sentence if there is no such module or factory, if one of them fails,
    or if the factory returns no Backend.
    """
    names = _URI.fullmatch(uri)
    assert names
    module = _imported(uri, names["module"])
    factory = getattr(module, names["factory"], None)
    if not callable(factory):
        fault = "is missing" if factory is None else f"is of the type {_kind(factory)}"
        name = f"{module.__name__}.{names['factory']}"
        raise ValueError(f"the backend {uri!r}: {name} {fault}; name a class or a function")
    return _checked(uri, _made(uri, factory))


def _imported(uri: str, name: str) -> ModuleType:
    if (directory := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, directory)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ValueError(f"the backend {uri!r}: there is no module {error.name}") from None
        raise _failed(uri, f"the module {name} cannot be imported", error) from error
    except Exception as error:  # The module's code may raise any.
        raise _failed(uri, f"the module {name} cannot be imported", error) from error


def _made(uri: str, factory: Any) -> Any:
    try:
        return factory()
    except Exception as error:  # The factory's code may raise any.
        raise _failed(uri, "its factory failed", error) from error


def _checked(uri: str, backend: Any) -> Backend:
    missing = [name for name in _METHODS if not callable(getattr(backend, name, None))]
    if isinstance(backend, type) or missing:
        kind = f"the class {backend.__name__}" if isinstance(backend, type) else _kind(backend)
        lacks = f" without {', '.join(missing)}" if missing else ""
        raise ValueError(
            f"the backend {uri!r}: its factory returned {kind}{lacks}, which is no "
            "imagecall.service.Backend"
        )
    checked: Backend = backend
    return checked


def _failed(uri: str, fault: str, error: Exception) -> ValueError:
    return ValueError(f"the backend {uri!r}: {fault}: {type(error).__name__}: {error}")


def _kind(value: object) -> str:
    return type(value).__name__
