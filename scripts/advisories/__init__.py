"""Whether any pinned package has a known vulnerability."""
