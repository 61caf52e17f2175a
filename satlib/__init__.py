"""Image captioning with visual attention, developed chapter by chapter in the book.

The names that one types most are here: `satlib.load_captioner`, `satlib.explore`, …
"""

from importlib import import_module

__version__ = "0.1.0"
_HOMES = {
    "Config": "configuration",
    "build_encoder": "encoder",
    "create_input_files": "dataset",
    "load_captioner": "captioner",
    "attention_figure": "maps",
    "explore": "explorer",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    """Import a name from its module when it is first used."""
    if name in _HOMES:
        return getattr(import_module(f"satlib.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'satlib' has no attribute {name!r}")
