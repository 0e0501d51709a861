import copy

import numpy as np
import torch
from conftest import tiny_unet
from diffusers import DDPMScheduler

from chrysalis.data.batch import Batch
from chrysalis.denoiser import Denoiser
from chrysalis.diffusion import seeds
from chrysalis.diffusion.objective import objective
from chrysalis.diffusion.weighting import MinSNR


def batch_of(n: int, size: int = 16) -> Batch:
    image = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    keys = torch.tensor([seeds.key(0, i) for i in range(n)])
    return Batch(image, torch.arange(n), keys, torch.linspace(0.0105, 0.9905, n), window=n)


def test_loss_equals_a_float64_hand_computation(denoiser):
    """Every formula in numpy float64; only the UNet, in double, is torch's."""
    denoiser.weighting = MinSNR(5.0)
    batch = batch_of(5)
    loss = denoiser.loss(batch)

    betas = np.linspace(0.0001, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    t = np.floor(batch.u.double().numpy() * 1000).astype(int)
    x0 = batch.image.numpy().astype(np.float64) / 255 * 2 - 1
    eps = np.stack(
        [torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(int(k))).double() for k in batch.key]
    )
    a = abar[t][:, None, None, None]
    x_t = np.sqrt(a) * x0 + np.sqrt(1 - a) * eps
    with torch.no_grad():
        out = copy.deepcopy(denoiser.unet).double()(torch.from_numpy(x_t), torch.from_numpy(t)).sample.numpy()
    per_sample = ((out - eps) ** 2).mean(axis=(1, 2, 3))
    snr = abar[t] / (1 - abar[t])
    expected = (np.minimum(snr, 5) / snr * per_sample).mean()

    assert loss.t.tolist() == t.tolist()
    np.testing.assert_allclose(loss.per_sample.detach().numpy(), per_sample, rtol=1e-4)
    np.testing.assert_allclose(loss.value.item(), expected, rtol=1e-4)


def test_an_image_has_the_same_loss_in_any_batch(denoiser):
    whole = batch_of(4)
    one = Batch(whole.image[2:3], whole.row[2:3], whole.key[2:3], whole.u[2:3], 1)
    torch.testing.assert_close(
        denoiser.loss(one).per_sample[0], denoiser.loss(whole).per_sample[2], rtol=1e-5, atol=1e-7
    )


def test_learned_variance_channels_are_dropped():
    unet = tiny_unet(out_channels=6)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 4])
    out = Denoiser(unet, DDPMScheduler(), objective("epsilon"))(x, t).out
    assert torch.equal(out, unet(x, t).sample[:, :3])


def test_noise_offset_adds_one_number_per_channel(denoiser):
    """With a UNet whose output is 0, the loss is the mean square of eps."""

    class Zero(torch.nn.Module):
        dtype = torch.float32

        def forward(self, x, t, return_dict=False):
            return (torch.zeros_like(x),)

    batch = batch_of(64)
    plain = Denoiser(Zero(), DDPMScheduler(), objective("epsilon"))
    offset = Denoiser(Zero(), DDPMScheduler(), objective("epsilon"), noise_offset=0.5)
    gain = offset.loss(batch).per_sample.mean() - plain.loss(batch).per_sample.mean()
    assert 0.15 < gain.item() < 0.37  # E[(0.5 n)^2] = 0.25, over 192 normal numbers
