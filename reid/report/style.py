"""The style sheet of every page: one column of cards, light or dark by the reader's preference, no external resources."""

from importlib.resources import files

CSS = files("reid.report").joinpath("templates/style.css").read_text(encoding="utf-8")
