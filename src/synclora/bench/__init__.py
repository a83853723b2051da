"""The benchmark: held-out pairs with known truth, the methods compared, and what is measured."""

from synclora.bench.baselines import METHODS, BenchPair, Method
from synclora.bench.metrics import bootstrap_interval, gradient_error, psnr, ssim
from synclora.bench.suite import held_out_pairs, run_procedural

__all__ = [
    "METHODS",
    "BenchPair",
    "Method",
    "bootstrap_interval",
    "gradient_error",
    "held_out_pairs",
    "psnr",
    "run_procedural",
    "ssim",
]
