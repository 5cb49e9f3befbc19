"""What is made of the command lines' parsers: manual pages, shell completion, docs/cli.md.

model.py reads the parsers into plain values, about.py says what no parser knows; man.py, bash.py, zsh.py, fish.py and
markdown.py are pure renderers of both. scripts/cli_docs.py writes the files.
"""
