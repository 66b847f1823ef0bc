"""What people have, as rows of one table: one file per kind; `registry.py` lists them."""
