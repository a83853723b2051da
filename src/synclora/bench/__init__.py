"""The benchmark: pairs with known truth, the methods compared, and what is measured."""

from synclora.bench.baselines import METHODS, BenchPair, Method
from synclora.bench.metrics import bootstrap_interval, end_to_start, flicker, gradient_error, psnr, retention, ssim
from synclora.bench.suite import held_out_pairs, run_footage, run_procedural

__all__ = [
    "METHODS",
    "BenchPair",
    "Method",
    "bootstrap_interval",
    "end_to_start",
    "flicker",
    "gradient_error",
    "held_out_pairs",
    "psnr",
    "retention",
    "run_footage",
    "run_procedural",
    "ssim",
]
