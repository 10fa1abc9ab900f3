"""Reaching Ray: its address, the connection, and datasets solved by its workers."""
