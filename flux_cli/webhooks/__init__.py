"""The receiving side of webhooks: what an event is, the server that takes it, and what becomes of it."""
