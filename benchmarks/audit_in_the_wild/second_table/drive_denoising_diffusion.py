"""denoising-diffusion-pytorch's Trainer on a folder of random images, with its own EMA."""

import tempfile
from pathlib import Path

import torch
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from PIL import Image

torch.manual_seed(0)
with tempfile.TemporaryDirectory() as folder:
    for number in range(128):
        pixels = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(Path(folder) / f"{number}.png")
    model = Unet(dim=16, dim_mults=(1, 2), flash_attn=False)
    diffusion = GaussianDiffusion(model, image_size=16, timesteps=20, sampling_timesteps=2)
    trainer = Trainer(
        diffusion,
        folder,
        train_batch_size=8,
        gradient_accumulate_every=2,
        train_num_steps=64,
        save_and_sample_every=1000,
        num_samples=4,
        results_folder=str(Path(folder) / "results"),
        calculate_fid=False,
    )
    trainer.train()
