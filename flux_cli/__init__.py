"""Generate images with APIFRAME's Flux endpoint from the terminal."""

__version__ = "0.1.0"
