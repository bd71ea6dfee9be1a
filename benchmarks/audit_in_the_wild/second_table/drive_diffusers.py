"""diffusers' EMAModel beside a small UNet2DModel that learns to predict noise, as in its unconditional example."""

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

torch.manual_seed(0)
model = UNet2DModel(
    sample_size=16,
    in_channels=3,
    out_channels=3,
    layers_per_block=1,
    block_out_channels=(32, 32),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
)
ema_model = EMAModel(
    model.parameters(),
    decay=0.9999,
    use_ema_warmup=True,
    inv_gamma=1.0,
    power=0.75,
    model_cls=UNet2DModel,
    model_config=model.config,
)
noise_scheduler = DDPMScheduler(num_train_timesteps=100)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for step in range(24):
    clean = torch.randn(4, 3, 16, 16)
    noise, times = torch.randn_like(clean), torch.randint(0, 100, (4,))
    predicted = model(noise_scheduler.add_noise(clean, noise, times), times).sample
    loss = torch.nn.functional.mse_loss(predicted, noise)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    ema_model.step(model.parameters())
    if step % 8 == 7:  # sampling in between
        ema_model.store(model.parameters())
        ema_model.copy_to(model.parameters())
        with torch.no_grad():
            model(clean, times)
        ema_model.restore(model.parameters())
