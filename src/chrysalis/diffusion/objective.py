"""What the UNet predicts: eps, v or x0; how to go between them; how much each timestep weighs."""

from typing import Literal, get_args

import torch

from chrysalis.diffusion.noise import Noise
from chrysalis.system.errors import UserError

Prediction = Literal["epsilon", "v_prediction", "sample"]
SHORT = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


class Objective:
    """The regression target and its inverse, under diffusers' names for `prediction_type`.

    snr_gamma: the clamp of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556), or None for plain MSE.
    noise_offset: strength of one extra normal number a picture and channel, added to eps in training, which
        lets a model learn to change overall brightness (Guttenberg 2023); 0 turns it off.
    """

    def __init__(self, prediction: Prediction, snr_gamma: float | None = None, noise_offset: float = 0.0):
        if prediction not in get_args(Prediction):
            raise UserError(f"objective={prediction} is unknown: choose eps, v or x0.")
        if snr_gamma is not None and snr_gamma <= 0:
            raise UserError(f"objective.snr_gamma={snr_gamma} must be positive, or null for plain MSE.")
        self.prediction, self.snr_gamma, self.noise_offset = prediction, snr_gamma, noise_offset

    def target(self, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """What the UNet's output [B, C, H, W] is compared with. v = alpha eps - sigma x0 (Salimans & Ho 2022)."""
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "sample":
            return x0
        return noise.alpha(t) * eps - noise.sigma(t) * x0

    def to_x0(self, out: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The x_0 that an output stands for; never clipped."""
        if self.prediction == "epsilon":
            return (x_t - noise.sigma(t) * out) / noise.alpha(t)
        if self.prediction == "sample":
            return out
        return noise.alpha(t) * x_t - noise.sigma(t) * out

    def to_eps(self, out: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The eps that an output stands for."""
        if self.prediction == "epsilon":
            return out
        if self.prediction == "sample":
            return (x_t - noise.alpha(t) * out) / noise.sigma(t)
        return noise.alpha(t) * out + noise.sigma(t) * x_t

    def shift(self, out: torch.Tensor, change: torch.Tensor, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """The output whose x_0 is that of `out` plus `change`, at the same x_t: how guidance speaks to samplers.

        eps and v are linear in x_0 at a given x_t, so nothing is converted there and back.
        """
        if self.prediction == "epsilon":
            return out - noise.alpha(t) / noise.sigma(t) * change
        if self.prediction == "sample":
            return out + change
        return out - change / noise.sigma(t)

    def weight(self, t: torch.Tensor, noise: Noise) -> torch.Tensor:
        """float32 [B]: min(SNR, gamma) over the SNR power that the target already carries."""
        if self.snr_gamma is None:
            return torch.ones_like(noise.snr(t))
        snr = noise.snr(t)
        clamped = snr.clamp(max=self.snr_gamma)
        if self.prediction == "epsilon":
            # Under zero terminal SNR both are 0; the limit of min(snr, g) / snr is 1.
            return torch.where(snr > 0, clamped / snr.clamp(min=torch.finfo(snr.dtype).tiny), torch.ones_like(snr))
        if self.prediction == "v_prediction":
            return clamped / (snr + 1)
        return clamped


def choose(
    of_the_model: Prediction | None,
    prediction: str = "auto",
    snr_gamma: float | None = None,
    noise_offset: float = 0.0,
) -> Objective:
    """The objective of a model: its own (`auto`, or the same by name); a new model (None) takes the one asked for."""
    asked = SHORT.get(prediction, prediction)
    if asked != "auto" and of_the_model not in (None, asked) and asked in get_args(Prediction):
        own = next(short for short, long in SHORT.items() if long == of_the_model)
        raise UserError(
            f"objective={prediction}, but the pretrained model predicts {own}: leave objective=auto, or start from "
            "model=scratch."
        )
    if asked == "auto":
        asked = of_the_model or "epsilon"
    return Objective(asked, snr_gamma, noise_offset)
