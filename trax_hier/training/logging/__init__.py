"""Logs metrics to files and services (sinks), progress to the console."""
