"""What gateways and workers agree on, and the only code that speaks to Redis."""
