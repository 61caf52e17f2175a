"""Image captioning with visual attention, developed chapter by chapter in the book.

The names that one types most are here: `satlib.load_captioner`, `satlib.explore`, …
"""

import sys
from importlib import import_module
from importlib.util import spec_from_loader
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


class _OldNames:
    """Import a module that has another name now under the name that it had."""

    names = {
        "satlib.captions": "satlib.caption_files",
        "satlib.features": "satlib.batches",
        "satlib.session": "satlib.learner",
        "satlib.shared": "satlib.recurrence",
        "satlib.views": "satlib.maps",
    }

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return spec_from_loader(name, cls) if name in cls.names else None

    @staticmethod
    def create_module(spec):
        return None

    @classmethod
    def exec_module(cls, module):
        sys.modules[module.__name__] = import_module(cls.names[module.__name__])


sys.meta_path.append(_OldNames)
