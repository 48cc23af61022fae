"""From a prompt to a picture: captions, noise, networks and their weights, the one denoise loop, its cost."""
