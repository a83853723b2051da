"""Host memory while a checkpoint is loaded, over the checkpoint's bytes.

    python tests/backbones/measure_loading.py --megabytes 400

Random weights of LTX-Video's and LTX-2's real classes are written as a folder of the diffusers layout, whole and in
shards, and as one file with Lightricks' names. A fresh process loads each with `load_backbone` on the CPU in the files'
dtype, bfloat16; what its resident memory peaks at above what it had after its imports is compared with the bytes of the
weights that were read. Pages of mapped files count. Of LTX-2 the audio stream lies in the files and is not read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from safetensors.torch import save_file
from torch import nn
from transformers import ByT5Tokenizer, Gemma3Config, Gemma3ForConditionalGeneration, T5Config, T5EncoderModel

sys.path.append(str(Path(__file__).parents[1]))
import ltx2_tiny
import ltx_tiny
from test_presets import published_transformer

LAYOUTS = ("folder", "shards", "file")
TEXT_SHARE = 0.4  # of the bytes: text encoders are about as large as the transformers
CHILD = """
import sys, json, gc
from pathlib import Path
import torch
from synclora.backbones import ltx2, ltx_video, memory
from synclora.backbones.presets import load_backbone
from diffusers.loaders import single_file_utils
from transformers import AutoTokenizer, ByT5Tokenizer, Gemma3ForConditionalGeneration, T5EncoderModel
torch.empty(1).normal_()
def read(name):
    return next(int(l.split()[1]) * 1024 for l in Path("/proc/self/status").open() if l.startswith(name))
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
before = read("VmRSS")
backbone = load_backbone(sys.argv[1], dtype=torch.bfloat16)
parts = [getattr(backbone, name, None) for name in ("transformer", "vae", "text_encoder", "connectors")]
weights = sum(memory.bytes_of(part) for part in parts if part is not None)
print(json.dumps({"peak": read("VmHWM") - before, "after": read("VmRSS") - before, "weights": weights}))
"""


@dataclass(frozen=True)
class Measured:
    """Bytes: the highest resident memory above that before loading, that after it, and the weights loaded."""

    peak: int
    after: int
    weights: int

    @property
    def ratio(self) -> float:
        return self.peak / self.weights


def measure(where: Path) -> Measured:
    """Load `where` in a fresh process."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(where)], capture_output=True, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def make(folder: Path, family: str, megabytes: int, layouts: Iterable[str] = LAYOUTS) -> dict[str, Path]:
    """Write one model of about so many megabytes in some layouts: by name, what to give to `load_backbone`."""
    layers = max(2, round(megabytes * (1 - TEXT_SHARE) / (8.5 if family == "ltx-video" else 11)))
    transformer, text_encoder = _networks(family, layers, megabytes * TEXT_SHARE)
    where = {name: folder / f"{family}-{name}" for name in layouts}
    for name, path in where.items():
        (ltx_tiny if family == "ltx-video" else ltx2_tiny).vae().save_pretrained(path / "vae")
        ByT5Tokenizer(extra_ids=0).save_pretrained(path / "tokenizer")
        size = f"{max(20, megabytes // 8)}MB" if name == "shards" else "99GB"
        text_encoder.save_pretrained(path / "text_encoder", max_shard_size=size)
        if name != "file":
            transformer.save_pretrained(path / "transformer", max_shard_size=size)
        index = {"transformer": ["diffusers", type(transformer).__name__]}
        index["text_encoder"] = ["transformers", type(text_encoder).__name__]
        if family == "ltx-2":
            ltx2_tiny.connectors("2.3").save_pretrained(path / "connectors")
        (path / "model_index.json").write_text(json.dumps(index))
        (path / "synclora.json").write_text(json.dumps({"width": 64, "height": 64, "frames": 17}))
    if "file" not in where:
        return where
    (where["file"] / "transformer").mkdir()
    (where["file"] / "transformer" / "config.json").write_text(transformer.to_json_string())
    one = where["file"] / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in published_transformer(transformer).items()}, one)
    return {**where, "file": one}


def _networks(family: str, layers: int, text_megabytes: float) -> tuple[Any, Any]:
    """A transformer 512 wide, and a text encoder; bfloat16, random."""
    with torch.device("meta"):
        small: dict[str, Any] = {"in_channels": 8, "out_channels": 8, "num_attention_heads": 8, "num_layers": layers}
        small |= {"attention_head_dim": 64, "cross_attention_dim": 512, "caption_channels": 16}
        deep = max(1, round(text_megabytes / 8.4))
        if family == "ltx-video":
            transformer: Any = LTXVideoTransformer3DModel(**small)
            text_encoder: Any = T5EncoderModel(
                T5Config(vocab_size=384, d_model=512, d_kv=64, d_ff=3072, num_layers=deep, num_heads=8)
            )
        else:
            sound = {"audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2}
            sound |= {"audio_attention_head_dim": 32, "audio_cross_attention_dim": 64}
            transformer = LTX2VideoTransformer3DModel(**small, **sound, **ltx2_tiny.VERSIONS["2.3"])
            text = {"vocab_size": 400, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": deep}
            text |= {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64}
            eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            eyes |= {"image_size": 28, "patch_size": 14}
            text_encoder = Gemma3ForConditionalGeneration(
                Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=4, image_token_index=399)
            )
    return _random(transformer), _random(text_encoder)


def _random(module: nn.Module) -> nn.Module:
    module = nn.Module.to(module, dtype=torch.bfloat16).to_empty(device="cpu")
    rng = torch.Generator().manual_seed(0)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(-0.05, 0.05, generator=rng)
        else:
            tensor.data.zero_()
    return module.eval()


def measured(folder: Path, family: str, megabytes: int) -> Iterator[tuple[str, Measured]]:
    for layout, where in make(folder, family, megabytes).items():
        yield layout, measure(where)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400)
    arguments = parser.parse_args()
    for family in ("ltx-video", "ltx-2"):
        with tempfile.TemporaryDirectory() as folder:
            for layout, found in measured(Path(folder), family, arguments.megabytes):
                numbers = f"weights {found.weights / 1e6:.0f} MB, peak {found.peak / 1e6:.0f} MB"
                print(f"{family:9} {layout:7} {numbers}, after {found.after / 1e6:.0f} MB: {found.ratio:.2f}")


if __name__ == "__main__":
    main()
