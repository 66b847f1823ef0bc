"""The style sheet of every page: one column of cards, light and dark by the reader's own preference, nothing loaded."""

from importlib.resources import files

CSS = files("reid.report").joinpath("templates/style.css").read_text(encoding="utf-8")
