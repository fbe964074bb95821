"""Logging: metrics to files and services, progress to the console."""
