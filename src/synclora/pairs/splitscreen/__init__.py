"""Pairs by diffusion: a portrait and its edit side by side, animated at once, and split at the seam.

synclora pairs generate --generator split-screen --config recipes/pairs/split_screen.yaml --count 8 --out out/pairs
"""
