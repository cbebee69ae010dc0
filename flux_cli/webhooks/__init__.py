"""Receiving webhooks: the events, the HTTP server, and the bridge to the engine."""
