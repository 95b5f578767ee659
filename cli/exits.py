"""What the exit codes of `threadline` mean; 0 is done."""

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
