"""The only code that speaks to agents."""
