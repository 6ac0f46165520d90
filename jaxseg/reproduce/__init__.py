"""The experiment runner: a table of a paper is one command, `python -m jaxseg.reproduce TABLE --workdir=DIR`.

`tables` reads a table, `plan` makes jobs of it, `runner` runs them, `results` and `table_page` say what came out.
"""
