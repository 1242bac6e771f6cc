"""Runnable federated training over the bus, the writers and the receivers; nothing imports it."""
