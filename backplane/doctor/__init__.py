"""What `threadline doctor` finds at Redis."""
