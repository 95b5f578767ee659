"""Dialects: the log as other protocols tell it. Each is a view: nothing is stored for it, its cursor is the log's."""
