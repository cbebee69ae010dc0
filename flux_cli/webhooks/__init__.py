"""The receiving side of webhooks: what an event is, the server that receives it, and how it is handled."""
