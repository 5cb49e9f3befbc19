"""Running commands: expansion, redirections, process trees, captured output. Knows no messages and no transport."""
