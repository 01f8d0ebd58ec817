"""One training loop, its objectives, checkpoints and the four stages built from them."""
