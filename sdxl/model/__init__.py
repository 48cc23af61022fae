"""From a prompt to a picture: captions, noise, networks, weights, the one denoise loop."""
