"""Image captioning with visual attention, developed chapter by chapter in the book."""

__version__ = "0.1.0"
