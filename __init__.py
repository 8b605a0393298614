"""imtok: train, export and evaluate discrete image tokenizers.

Importing this package loads neither torch nor lightning: `imtok --help` must answer at once.
"""

from importlib import import_module

__version__ = "0.1.0"
_LAZY = {"Tokenizer": ".tokenizers.tokenizer", "from_pretrained": ".tokenizers.hub"}
__all__ = ["Tokenizer", "__version__", "from_pretrained"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'imtok' has no attribute {name!r}")
