"""The command line vsrpc-host: arguments in, text and an exit code out. Everything else is the client's."""
