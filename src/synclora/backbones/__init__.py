"""Backbones: what differs between models (latents, text, the network call), and nothing else."""
