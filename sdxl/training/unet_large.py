"""The stage `unet_large`: the UNet goes on with larger pictures, from the stage `unet`'s weights.

With 8 x 8 latents, attention sees 4 x 4 and 2 x 2 places, too few to keep two solids apart; four
times the pixels give it four times the places. Small pictures first are the cheaper start.
"""

from __future__ import annotations

import torch

from sdxl.errors import UserError
from sdxl.schema_train import Training
from sdxl.training import scene_data, unet


class Stage(unet.Stage):
    """As `unet`, beginning with what that stage has exported."""

    def __init__(self, settings: Training, seed: int) -> None:
        from diffusers import UNet2DConditionModel

        small = scene_data.stage_folder(settings.run, "unet") / "model"
        if not small.is_dir():
            raise UserError(
                f"the UNet of run `{settings.run}` has not begun with small pictures",
                str(small),
                fix=f"python train.py train=unet train.run={settings.run}",
            )
        super().__init__(settings, seed)
        network = UNet2DConditionModel.from_pretrained(small)
        with torch.no_grad():
            self.module.unet.load_state_dict(network.state_dict())
