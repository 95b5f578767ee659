"""A fleet over a length of time: restarted member by member under load (`rolling`), or left to work (`soak`)."""
