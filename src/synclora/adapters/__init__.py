"""Adapters that travel: LoRA files found, told apart, converted between tools and merged into their base."""
