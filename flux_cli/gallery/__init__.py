"""One HTML page of generated pictures, with thumbnails, that needs no other file but the pictures."""
