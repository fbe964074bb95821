"""Logs metrics to files and services (sinks); prints progress."""
