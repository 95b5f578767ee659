"""The agents that come with Threadline."""
