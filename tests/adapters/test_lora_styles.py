"""Files of one LoRA in every style: all give one velocity, ours and diffusers'; and the names themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lora_samples as samples
import ltx_tiny
import pytest
import torch
from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel
from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from synclora.adapters.convert import convert
from synclora.backbones import ltx2_transformer
from synclora.diffusion.lora import AUDIO, LoraError, add_lora, fingerprint, load_lora, save_lora
from synclora.diffusion.lora_file import read_lora
from synclora.diffusion.lora_keys import STYLES, diffusers_name, flat_names, known_modules, native_name, parse_key

FAMILIES = ("ltx-video", "ltx-2")


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_style_gives_one_velocity(family: str, tmp_path: Path):
    """Five files written by hand from one adapter (alpha 6, ranks 4 and 6, layers in and outside the blocks), loaded by
    `load_lora`: each velocity is that of W + alpha / rank * B A, and not the base's."""
    model, matrices = samples.transformer(family), samples.lora(family)
    bare, expected = samples.velocity(model), samples.velocity(samples.applied(model, matrices))
    assert (expected - bare).abs().max() > 0.05
    for style in STYLES:
        file = samples.write(tmp_path / f"{style}.safetensors", style, family, matrices)
        loaded = samples.transformer(family)
        load_lora(loaded, file, base_fingerprint=None)
        close(samples.velocity(loaded), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("style", ["diffusers", "comfyui"])
def test_diffusers_loads_our_conversions(style: str, family: str, tmp_path: Path):
    """`load_lora_weights` of diffusers' pipelines on our conversions of kohya's file, in both styles diffusers knows:
    the same velocity. (Its LTX-Video loader does not rename Lightricks' outer layers; its LTX-2 loader does.)"""
    matrices = samples.lora(family, trunk=family == "ltx-2" or style == "diffusers")
    file = samples.write(tmp_path / "kohya.safetensors", "kohya", family, matrices)
    convert(file, tmp_path / "out.safetensors", style)
    model = samples.transformer(family)
    samples.pipeline(family, model).load_lora_weights(str(tmp_path / "out.safetensors"))
    close(samples.velocity(model), samples.velocity(samples.applied(samples.transformer(family), matrices)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("rank", "alpha"), [(4, None), (256, 64)])
def test_diffusers_loads_what_training_writes(family: str, rank: int, alpha: float | None, tmp_path: Path):
    """A LoRA of `add_lora` and `save_lora`, rank 256 and alpha 64 included, in diffusers' pipelines: to 1e-5."""
    ours, theirs = samples.transformer(family), samples.transformer(family)
    torch.manual_seed(1)
    for parameter in add_lora(ours, rank, alpha):
        nn.init.normal_(parameter, std=0.3 / rank**0.25)
    expected, bare = samples.velocity(ours), samples.velocity(theirs)
    assert (expected - bare).abs().max() > 0.05
    save_lora(tmp_path / "l.safetensors", ours, base_fingerprint=fingerprint(ours), dtype=torch.float32)
    samples.pipeline(family, theirs).load_lora_weights(str(tmp_path / "l.safetensors"))
    close(samples.velocity(theirs), expected)


def test_what_diffusers_writes_is_read(tmp_path: Path):
    """`save_lora_weights` leaves alpha in the header: lora_alpha 6 at rank 4 is a factor of 1.5, here as there."""
    from peft import LoraConfig, get_peft_model_state_dict

    theirs = ltx_tiny.backbone()
    theirs.transformer.add_adapter(LoraConfig(r=4, lora_alpha=6, target_modules=["attn1.to_q", "ff.net.2"]))
    for name, parameter in theirs.transformer.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    state: Any = get_peft_model_state_dict(theirs.transformer)
    config: Any = theirs.transformer.peft_config["default"].to_dict()
    ltx_tiny.pipeline(theirs).save_lora_weights(
        tmp_path, transformer_lora_layers=state, transformer_lora_adapter_metadata=config
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    assert {module.scale for module in read_lora(file).modules.values()} == {1.5}
    ours = ltx_tiny.transformer()
    load_lora(ours, file, base_fingerprint=None)
    close(samples.velocity(ours), samples.velocity(theirs.transformer))
    convert(file, tmp_path / "folded.safetensors", "diffusers")
    again = ltx_tiny.backbone()  # the alpha in the header must not be applied to the folded B a second time
    ltx_tiny.pipeline(again).load_lora_weights(str(tmp_path / "folded.safetensors"))
    close(samples.velocity(again.transformer), samples.velocity(theirs.transformer))


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_our_folder_and_we_theirs(family: str, tmp_path: Path):
    """`PeftModel.from_pretrained` on our folder gives the velocity; and a folder of PEFT's own, alpha in its
    adapter_config.json, is read with its factor."""
    from peft import PeftModel

    matrices = samples.lora(family)
    expected = samples.velocity(samples.applied(samples.transformer(family), matrices))
    file = samples.write(tmp_path / "kohya.safetensors", "kohya", family, matrices)
    convert(file, tmp_path / "ours", "peft")
    wrapped: Any = PeftModel.from_pretrained(samples.transformer(family), str(tmp_path / "ours"))
    close(samples.velocity(wrapped.base_model.model), expected)

    for module in wrapped.base_model.model.modules():
        if hasattr(module, "lora_A"):
            nn.init.normal_(module.lora_B["default"].weight, std=0.2)
            module.scaling["default"] *= 0.5
    config = wrapped.peft_config["default"]
    config.lora_alpha, config.alpha_pattern = (
        config.lora_alpha / 2,
        {name: value / 2 for name, value in config.alpha_pattern.items()},
    )
    wrapped.save_pretrained(str(tmp_path / "theirs"))
    loaded = samples.transformer(family)
    load_lora(loaded, tmp_path / "theirs" / "adapter_model.safetensors", base_fingerprint=None)
    close(samples.velocity(loaded), samples.velocity(wrapped.base_model.model))


@pytest.mark.parametrize("style", ["comfyui", "kohya"])
def test_audio_layers_are_left_out_without_sound(style: str, tmp_path: Path):
    """Unqualified targets ("to_q") hit LTX-2's audio stream too. On a transformer loaded without it, such a file gives
    the video velocity of its video layers alone; on an LTX-Video base it is refused."""
    matrices = samples.lora("ltx-2")
    file = samples.write(tmp_path / "l.safetensors", style, "ltx-2", matrices)
    loaded, expected = samples.transformer("ltx-2"), samples.transformer("ltx-2")
    expected = samples.applied(expected, {name: ab for name, ab in matrices.items() if not AUDIO.search(name)})
    for model in (loaded, expected):
        ltx2_transformer.drop_audio(model)
    load_lora(loaded, file, base_fingerprint=None)
    draw = torch.Generator().manual_seed(5)
    sequence, text = ltx_tiny.full_sequence(samples.SIGMA), torch.randn(2, 6, 32, generator=draw)
    mask = torch.ones(2, 6, dtype=torch.bool)
    with torch.no_grad():
        found, truth = (
            ltx2_transformer.forward(model, sequence, samples.SIGMA, text, mask)[0] for model in (loaded, expected)
        )
    close(found, truth)
    with pytest.raises(LoraError, match="this base model"):
        load_lora(samples.transformer("ltx-video"), file, base_fingerprint=None)


def test_rank_256(tmp_path: Path):
    """Rank 256 above the layers' own width, alpha 256 and 64, as a kohya file in bfloat16."""
    for alpha in (None, 64.0):
        matrices = samples.lora("ltx-video", 256, alpha, dtype=torch.bfloat16)
        file = samples.write(tmp_path / "k.safetensors", "kohya", "ltx-video", matrices)
        model = ltx_tiny.transformer()
        load_lora(model, file, base_fingerprint=None)
        close(samples.velocity(model), samples.velocity(samples.applied(ltx_tiny.transformer(), matrices)))


def test_rank_stabilised(tmp_path: Path):
    """use_rslora in diffusers' header: the factor is alpha / sqrt(rank) = 6 / 2 = 3."""
    told = {"transformer.r": 4, "transformer.lora_alpha": 6, "transformer.use_rslora": True}
    matrices = {m: ab for m, ab in samples.lora("ltx-video", alpha=None).items() if len(ab[0]) == 4}
    header = {"lora_adapter_metadata": json.dumps(told)}
    file = samples.write(tmp_path / "d.safetensors", "diffusers", "ltx-video", matrices, header)
    assert {round(module.scale, 6) for module in read_lora(file).modules.values()} == {3.0}


@pytest.mark.parametrize(
    ("key", "style", "module", "part"),
    [
        ("diffusion_model.patchify_proj.lora_A.weight", "comfyui", "proj_in", "A"),
        ("diffusion_model.transformer_blocks.0.attn1.to_q.lora_down.weight", "comfyui", "to_q", "A"),
        ("transformer.transformer_blocks.0.ff.net.2.lora_B.weight", "diffusers", "ff.net.2", "B"),
        ("transformer.transformer_blocks.0.ff.net.2.lora.up.weight", "diffusers", "ff.net.2", "B"),
        ("base_model.model.transformer_blocks.0.attn1.to_k.lora_A.default.weight", "peft", "attn1.to_k", "A"),
        ("base_model.model.diffusion_model.adaln_single.linear.lora_A.weight", "peft", "time_embed.linear", "A"),
        ("transformer_blocks.0.attn2.to_v.lora_B", "bare", "attn2.to_v", "B"),
        ("lora_unet_transformer_blocks_0_attn1_to_out_0.alpha", "kohya", "attn1.to_out.0", "alpha"),
        ("lora_unet_transformer_blocks_0_audio_attn1_to_out_0.lora_up.weight", "kohya", "audio_attn1.to_out.0", "B"),
        ("lora_transformer_audio_adaln_single_linear.lora_up.weight", "kohya", "audio_time_embed.linear", "B"),
        ("lycoris_proj_in.lora_down.weight", "kohya", "proj_in", "A"),
    ],
)
def test_keys(key: str, style: str, module: str, part: str):
    """Prefix, vocabulary and matrix names of each style, variants of each tool included."""
    found = parse_key(key, flat_names(known_modules(1)))
    assert found is not None and (found.style, found.part) == (style, part)
    assert found.module.endswith(module) and not found.module.startswith(("diffusion_model", "audio_transformer"))


@pytest.mark.parametrize(
    "key", ["diffusion_model.x.dora_scale", "lora_unet_x.lokr_w1", "lora_unet_up_blocks_0_conv.alpha", "x.lora_B.bias"]
)
def test_keys_of_other_kinds(key: str):
    """DoRA, LoKr, other architectures under kohya's names, and biases are none of a plain LoRA's."""
    assert parse_key(key, flat_names(known_modules(1))) is None


def test_known_modules_are_those_of_diffusers_classes():
    """The table of layers holds every linear layer of both classes with everything on, and no other; the underscored
    names, in both vocabularies, are all different."""
    with torch.device("meta"):
        models: list[Any] = [
            LTXVideoTransformer3DModel(num_layers=2),
            LTX2VideoTransformer3DModel(
                num_layers=2, gated_attn=True, audio_gated_attn=True, cross_attn_mod=True, audio_cross_attn_mod=True
            ),
        ]
    real = {name for model in models for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert known_modules(2) == real
    assert len(flat_names(real)) == len({name for module in real for name in (module, native_name(module))})
    assert all(diffusers_name(native_name(module)) == module for module in real)


def test_damaged_files_are_told_apart(tmp_path: Path):
    """Two tensors for one matrix, a kohya layer that is not there, matrices that do not fit: each refused by name."""
    matrices = samples.lora("ltx-video")
    file = samples.write(tmp_path / "k.safetensors", "kohya", "ltx-video", matrices)
    tensors = load_file(file)

    def refused(message: str, extra: dict[str, torch.Tensor]) -> None:
        save_file({**tensors, **extra}, file)
        with pytest.raises(LoraError, match=message):
            read_lora(file)

    down = "transformer_blocks.0.attn1.to_q.lora_A.weight"
    refused("no part of a plain LoRA", {f"transformer.{down}": torch.ones(4, 32)})
    refused("no layer of that name", {"lora_unet_up_blocks_0_conv.lora_down.weight": torch.ones(2, 2)})
    refused(r"A \(3, 8\) and B", {"lora_unet_patchify_proj.lora_down.weight": torch.ones(3, 8)})
    refused("no finite number", {"lora_unet_patchify_proj.alpha": torch.ones(2)})
    refused("no finite number", {"lora_unet_patchify_proj.alpha": torch.tensor(torch.nan)})
    save_file(tensors, file, metadata={"lora_adapter_metadata": '{"r": 4, "lora_alpha": "many"}'})
    with pytest.raises(LoraError, match="'many'"):
        read_lora(file)
    save_file(tensors, file, metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(LoraError, match="lora_adapter_metadata: not JSON"):
        read_lora(file)
