"""Development tools of the project; none is installed."""
