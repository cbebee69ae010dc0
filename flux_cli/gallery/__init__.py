"""One HTML page of generated pictures, with thumbnails, that needs no other files than the pictures."""
