"""Converters from the data formats that people have to rows of one table: one file per kind; `registry.py` lists them."""
