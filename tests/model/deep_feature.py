"""A denoise loop that computes everything, and puts kept features where a shortcut has them."""

import torch

from sdxl.model import networks


def plain_loop(sampler, indices, before=lambda number: None):
    """A denoise loop written down once more, every call of the whole UNet and of both rows."""
    embeddings, noise = sampler._embeddings(list(indices)), sampler._noise(indices)
    walk = sampler.schedule.begin(noise.device, [])
    latents, unet = noise * walk.start, sampler.stages.modules["unet"]
    for number, timestep in enumerate(walk.timesteps):
        before(number)
        sample = walk.scaled(torch.cat([latents, latents]), timestep)
        negative, positive = networks.predict(unet, sample, timestep, embeddings).chunk(2)
        scale = 8.0 if sampler.steps[number].guided else 1.0
        latents = walk.step(negative + scale * (positive - negative), timestep, latents)
    return latents


class DeepFeature:
    """Puts what a block got from below at a deep step into the later steps' input."""

    def __init__(self, unet, skip, deep):
        places = [resnet for block in unet.up_blocks for resnet in block.resnets]
        self.resnet, self.deep, self.now, self.kept = places[-1 - skip], deep, 0, None
        inner = self.resnet.norm1.num_channels
        skips = [unet.config.block_out_channels[0]]
        for block in unet.down_blocks:
            skips += [block.resnets[0].norm2.num_channels] * len(block.resnets)
            skips += [block.resnets[0].norm2.num_channels] if block.downsamplers else []
        self.channels = inner - skips[skip]

    def step(self, number):
        self.now = number

    def __enter__(self):
        def replace(_module, given):
            joined = given[0].clone()
            if self.now in self.deep:
                self.kept = joined[:, : self.channels].clone()
            joined[:, : self.channels] = self.kept
            return (joined, *given[1:])

        self.handle = self.resnet.register_forward_pre_hook(replace)
        return self

    def __exit__(self, *_):
        self.handle.remove()


class KeptCross:
    """Cross-attention of a UNet that answers with the mean of both rows from the gate on."""

    def __init__(self, unet, gate):
        self.unet, self.gate, self.now = unet, gate, 0

    def step(self, number):
        self.now = number

    def __enter__(self):
        self.before = dict(self.unet.attn_processors)
        ours = {name: _Answer(self) for name in self.before if ".attn2." in name}
        self.unet.set_attn_processor(self.before | ours)
        return self

    def __exit__(self, *_):
        self.unet.set_attn_processor(self.before)


class _Answer:
    """An attention processor: computes before the gate and remembers, then repeats."""

    def __init__(self, owner):
        from diffusers.models.attention_processor import AttnProcessor

        self.owner, self.plain = owner, AttnProcessor()

    def __call__(self, attn, hidden_states, **words):
        if self.owner.now >= self.owner.gate:
            return self.kept
        found = self.plain(attn, hidden_states, **words)
        self.kept = torch.cat([found.view(2, -1, *found.shape[1:]).mean(0)] * 2)
        return found
