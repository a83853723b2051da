"""Step 8 of nano: put the trained backbone and its Sync-LoRA where the package loads them from.

    python recipes/nano/ship.py --base runs/nano/base/model --lora runs/nano/sync_lora/adapter.safetensors

`--vae FOLDER` takes the VAE from there instead (one whose decoder was trained on). Refuses more than 40 MB.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from synclora.atomic import atomic_path
from synclora.backbones.presets import LORA_NAME, PRESETS, load_backbone
from synclora.diffusion.lora import load_lora

LIMIT_MB = 40


def main() -> None:
    parser = argparse.ArgumentParser(description="Install trained nano weights into the package.")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--lora", type=Path, required=True)
    parser.add_argument("--vae", type=Path)
    arguments = parser.parse_args()

    backbone = load_backbone(arguments.base)
    load_lora(backbone.transformer, arguments.lora, base_fingerprint=backbone.fingerprint())  # refuses another base's
    with atomic_path(PRESETS["nano"]) as folder:
        shutil.copytree(arguments.base, folder)
        if arguments.vae:
            shutil.copytree(arguments.vae, folder / "vae", dirs_exist_ok=True)
        shutil.copyfile(arguments.lora, folder / LORA_NAME)
        megabytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        if megabytes > LIMIT_MB:
            raise SystemExit(f"{megabytes:.1f} MB of weights; at most {LIMIT_MB} MB may ship. Nothing was installed.")
    print(f"{PRESETS['nano']}: {megabytes:.1f} MB")


if __name__ == "__main__":
    main()
