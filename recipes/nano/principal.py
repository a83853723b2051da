"""Where nano's video autoencoder starts: from the principal components of the clips, instead of from noise.

    python recipes/nano/principal.py --pool runs/nano/pool --output runs/nano/vae_start

A block of 16x16 pixels by 2 frames is one token. Its 128 leading principal components are the best linear code there
is, and they are had in minutes. The network can hold them: but for its residual branches, which start at zero here, and
one normalisation and SiLU at the end of each half, the encoder and the decoder are linear maps.

    pixels -> 8x8 patches (192) -> conv_in (64) -> fold 2x2x2 (512) -> normalise, SiLU -> conv_out -> code (128)
    code -> conv_in (128) -> unfold 2x2x2 (64) -> normalise, SiLU -> conv_out -> 8x8 patches (192) -> pixels

The 64 numbers a patch are its own leading components. Every arrow has a closed form, except the two `conv_out`: those
are fitted by least squares to what arrives there. A constant on every channel keeps the SiLU in a part that is nearly
straight.

Shapes: N blocks or positions, C channels, f h w a grid of latents.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from model import LATENT_NOISE, new_vae
from torch import Tensor
from torch.nn.functional import pad

from synclora.atomic import atomic_path
from synclora.training.pool import ClipPool

PATCH = 8  # pixels
CODE, FINE = 128, 64  # numbers a token, and a patch
SPARE = 4  # of the FINE that hold the negative sum of the others, so that the sum stays constant
MOTION_WEIGHT = 6.0  # how much more a block counts that moves: eyes and mouths are few among them
OFFSET = 14.0  # the constant on the features; below 16, where bfloat16 rounds half as coarsely as above
SPREAD = 2.0  # standard deviation of the strongest feature around the constant
RIDGE = 1e-4


class Moments:
    """Running weighted mean and covariance of vectors [N, D]."""

    def __init__(self) -> None:
        self.weight, self.sum, self.square = 0.0, torch.zeros(()), torch.zeros(())

    def add(self, x_ND: Tensor, weight_N: Tensor) -> None:
        self.weight += weight_N.sum().item()
        self.sum = self.sum + (x_ND * weight_N[:, None]).sum(0)
        self.square = self.square + x_ND.T @ (x_ND * weight_N[:, None])

    def components(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean [D], the leading principal directions [D, count] and the variances along them [count]."""
        mean = self.sum / self.weight
        variances, directions = torch.linalg.eigh(self.square / self.weight - torch.outer(mean, mean))
        return mean, directions.flip(1)[:, :count], variances.flip(0)[:count].clamp(min=1e-8)


def patches(x_BCFHW: Tensor) -> Tensor:
    """Video [1, 3, F, H, W] as patches [1, 192, F, H/8, W/8], in the order of the VAE's channels (colour, x, y)."""
    b, c, f, h, w = x_BCFHW.shape
    x = x_BCFHW.reshape(b, c, f, h // PATCH, PATCH, w // PATCH, PATCH)
    return x.permute(0, 1, 6, 4, 2, 3, 5).flatten(1, 3)


def fold(x: Tensor) -> Tensor:
    """Each 2x2x2 of positions to channels (channel, t, y, x), the first frame doubled, as the downsamplers do."""
    x = torch.cat([x[:, :, :1], x], 2)
    x = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def vectors(x: Tensor) -> Tensor:
    """[1, C, f, h, w] -> [N, C]."""
    return x[0].flatten(1).T


def blocks(x_BCFHW: Tensor) -> Tensor:
    """Video [1, 3, F, H, W] as the blocks that tokens stand for, [N, 192 * 8] in the order (patch, t, y, x)."""
    return vectors(fold(patches(x_BCFHW)))


def motion_weight(x_BCFHW: Tensor) -> Tensor:
    """For each block of a video 1 where it stands still, up to 1 + MOTION_WEIGHT where it leaves the clip's mean."""
    moving = blocks((x_BCFHW - x_BCFHW.mean(2, keepdim=True)).abs()).mean(1)
    return 1 + MOTION_WEIGHT * (16 * moving).clamp(max=1)


@contextmanager
def watching(module: Any) -> Iterator[list[Tensor]]:
    """Collect what a module is given."""
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach().float()))
    try:
        yield seen
    finally:
        handle.remove()


def set_point(conv: Any, weight_OI: Tensor, bias_O: Tensor, time: int) -> None:
    """Make a 3x3x3 convolution a map of single positions; `time` is the tap of the frame itself (2 where causal)."""
    conv.conv.weight.zero_()
    conv.conv.weight[:, :, time, 1, 1] = weight_OI
    conv.conv.bias.copy_(bias_O)


def least_squares(pairs: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, float]:
    """Weight [O, I] and bias [O] of the best linear map of features [N, I] to targets [N, O]; its relative error."""
    gram = cross = total = torch.zeros(())
    count = 0
    for x, y in pairs:
        x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
        gram, cross, total = gram + x.T @ x, cross + x.T @ y.double(), total + y.double().square().sum()
        count += len(x)
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).double() * (gram.diagonal() / gram.diagonal().mean())
    solution = torch.linalg.solve(gram + ridge * 1e-2, cross)
    left = total - 2 * (solution * cross).sum() + (solution * (gram @ solution)).sum()
    return solution[:-1].T.float(), solution[-1].float(), (left / total).item()


def start(clips: Callable[[], Iterator[Tensor]]) -> AutoencoderKLLTXVideo:
    """A VAE that codes with principal components; `clips()` gives video [1, 3, F, H, W] in [-1, 1], again and again."""
    token, patch = Moments(), Moments()
    for x in clips():
        x_ND, weight_N = blocks(x), motion_weight(x)
        token.add(x_ND, weight_N)
        patch.add(x_ND.unflatten(1, (-1, 8)).transpose(1, 2).flatten(0, 1), weight_N.repeat_interleave(8))
    vae = new_vae()
    vae.requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if ".conv2." in name:
            parameter.zero_()  # residual branches start at nothing
    mean, directions, variances = token.components(CODE)
    # A strong component counts more than a weak one, but by the square root: divided out is half of its size (in dB).
    scale = (variances.sqrt() * variances.sqrt().mean()).sqrt()
    print(f"code: deviations {(variances.sqrt() / scale)[0]:.2f} .. {(variances.sqrt() / scale)[-1]:.2f}")

    def code(x: Tensor) -> Tensor:
        return (blocks(x) - mean) @ directions / scale

    features = Features(patch)
    _start_encoder(vae.encoder, clips, features, code)
    _start_decoder(vae.decoder, clips, features, mean, directions * scale, code)
    return vae.requires_grad_(True)


class Features:
    """The linear map from a patch [192] to FINE features, around OFFSET: `weight` [FINE, 192] and `bias` [FINE]."""

    def __init__(self, patch: Moments) -> None:
        mean, directions, variances = patch.components(FINE - SPARE)
        # Weak features are raised, but not to the strong ones' size: every rise raises the roundings of bfloat16 too.
        rise = (variances / variances[0]) ** 0.25
        weight = (SPREAD * rise / variances.sqrt())[:, None] * directions.T
        self.weight = torch.cat([weight, -weight.sum(0, keepdim=True).expand(SPARE, -1) / SPARE])
        self.bias = OFFSET - self.weight @ mean


def _start_encoder(encoder: Any, clips: Callable, features: Features, code: Callable[[Tensor], Tensor]) -> None:
    set_point(encoder.conv_in, features.weight, features.bias, 2)
    fold_conv = encoder.down_blocks[0].downsamplers[0].conv  # its shortcut is the fold itself: 64 * 8 are 512
    fold_conv.conv.weight.zero_()
    fold_conv.conv.bias.zero_()

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        with watching(encoder.conv_out) as seen:
            for x in clips():
                encoder(x)
                yield vectors(seen.pop()), code(x)

    weight, bias, error = least_squares(pairs())
    print(f"encoder: relative error of the code {error:.4f}")
    last = torch.tensor([2 * math.log(LATENT_NOISE)])
    set_point(encoder.conv_out, torch.cat([weight, torch.zeros(1, weight.shape[1])]), torch.cat([bias, last]), 2)


def _start_decoder(
    decoder: Any, clips: Callable, features: Features, mean: Tensor, basis: Tensor, code: Callable[[Tensor], Tensor]
) -> None:
    """`basis` [192 * 8, 128] and `mean` turn a code into a block: (patch, place in 2x2x2)."""
    set_point(decoder.conv_in, torch.eye(CODE), torch.zeros(CODE), 1)
    up = decoder.up_blocks[0].upsamplers[0]
    weight = torch.einsum("pd,dsc->psc", features.weight, basis.unflatten(0, (-1, 8))).flatten(0, 1)  # [64 * 8, 128]
    bias = (features.weight @ mean.unflatten(0, (-1, 8)) + features.bias[:, None]).flatten()
    set_point(up.conv, weight - _residual(up, CODE), bias, 1)

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        with watching(decoder.conv_out) as seen:
            for x in clips():
                f, h, w = -(-x.shape[2] // 2), x.shape[3] // 16, x.shape[4] // 16
                latents = code(x).T.reshape(1, CODE, f, h, w)
                decoder(latents + LATENT_NOISE * torch.randn_like(latents))
                yield neighbours(seen.pop()), vectors(patches(x))

    weight, bias, error = least_squares(pairs())
    print(f"decoder: relative error of the pixels {error:.4f}")
    conv = decoder.conv_out.conv
    conv.weight.zero_()
    conv.weight[:, :, 1] = weight.view(-1, FINE, 3, 3)
    conv.bias.copy_(bias)


def neighbours(x: Tensor) -> Tensor:
    """[1, C, F, H, W] -> [N, C * 9]: every position with the eight around it."""
    h, w = x.shape[3:]
    x = pad(x, (1, 1, 1, 1))
    taps = [x[:, :, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return vectors(torch.stack(taps, 2).flatten(1, 2))


def _residual(upsampler: Any, channels: int) -> Tensor:
    """What an upsampler adds by itself, as a matrix [channels out * 8, channels]; the convolution takes it off."""
    eye = torch.eye(channels)[:, :, None, None, None]  # one input channel an item
    places = eye.reshape(channels, -1, 8)
    repeats = 8 // upsampler.upscale_factor
    return places.repeat(1, repeats, 1).flatten(1).T


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="Start nano's VAE from principal components.")
    parser.add_argument("--pool", type=Path, required=True, help="folder of rendered clips; filled as needed")
    parser.add_argument("--output", type=Path, required=True, help="diffusers folder to write")
    parser.add_argument("--motions", type=int, default=512)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--clips", type=int, default=200)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pool = ClipPool(arguments.pool, arguments.motions, arguments.looks)

    def clips(count: int = arguments.clips, first: int = 0) -> Iterator[Tensor]:
        for index in range(first, first + count):
            motion = index * 7 % arguments.motions
            clip = pool.clip(motion, index % arguments.looks).float() / 127.5 - 1
            yield (clip.flip(2) if index % 2 else clip).permute(3, 0, 1, 2)[None]

    vae = start(clips)
    ratios = []
    for x in clips(8, arguments.clips):
        y = vae.decode(vae.encode(x, return_dict=False)[0].mode(), return_dict=False)[0].clamp(-1, 1)
        ratios.append((-10 * torch.log10(((y - x) / 2).square().mean())).item())
    print(f"round trip of clips not fitted: {sum(ratios) / len(ratios):.2f} dB")
    with atomic_path(arguments.output) as folder:
        vae.save_pretrained(folder)


if __name__ == "__main__":
    main()
