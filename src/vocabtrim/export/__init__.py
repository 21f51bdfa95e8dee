"""A trimmed drafter in, what an engine loads today out.

The package is also the function: once any of its modules is imported, Python binds `vocabtrim.export` to the package,
which would shadow the public name. So the package can be called, and `vt.export(...)` means the same at all times.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .export import Export


class _Export(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Export:
        """See `vocabtrim.export.export.export`."""
        from .export import export

        return export(*arguments, **options)


sys.modules[__name__].__class__ = _Export
