"""Forwards over paged keys and values: the protocol, and the engine that runs a torch module."""
