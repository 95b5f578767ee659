"""The `threadline` command: the only place where a gateway and a worker are put together."""
