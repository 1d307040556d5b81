"""Charts and their controls: a table in, an explorer out, one module for each page.

A module is loaded when it is first asked for. So a page rests on its own ones, and is executed
again when those change, not when another page's do.
"""

import importlib
import pkgutil
from types import ModuleType

MODULES = tuple(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name: str) -> ModuleType:
    """`charts.bounds` for `kvlib.charts.bounds`, without an import of its own."""
    if name not in MODULES:
        raise AttributeError(f"expected {__name__} to hold one of {', '.join(MODULES)}, got {name}")
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted([*globals(), *MODULES])
