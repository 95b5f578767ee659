"""The sizing of a fleet: measured costs, a model of them, and its command."""
