"""Data attribution for diffusion models: which training images made a model produce an image."""
