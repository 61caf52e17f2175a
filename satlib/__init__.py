"""Image captioning with visual attention, developed chapter by chapter in the book.

The names that one types most are here: `satlib.load_captioner`, `satlib.explore`, …
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors; otherwise each is imported when it is first used
    from satlib.captioner import load_captioner as load_captioner
    from satlib.configuration import Config as Config
    from satlib.dataset import create_input_files as create_input_files
    from satlib.encoder import build_encoder as build_encoder
    from satlib.explorer import explore as explore
    from satlib.maps import attention_figure as attention_figure

__version__ = "0.1.0"
_HOMES = {
    "Config": "configuration",
    "attention_figure": "maps",
    "build_encoder": "encoder",
    "create_input_files": "dataset",
    "explore": "explorer",
    "load_captioner": "captioner",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name):
    """Import a name from its module when it is first used."""
    if name in _HOMES:
        return getattr(import_module(f"satlib.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'satlib' has no attribute {name!r}")
