"""Muon, the optimizer that orthogonalizes the update of each weight matrix (Jordan et al. 2024)."""

from collections.abc import Iterable

import torch

from chrysalis.system.ranges import FractionBelow1, LearningRate, NotNegativeNumber
from chrysalis.training.optimization import evaluated, gradients

COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5  # Jordan et al.'s quintic: singular values end in 0.7 to 1.2


class Muon(torch.optim.AdamW):
    """Muon for matrices and convolutions, AdamW for biases, norms and other vectors.

    A convolution's weight is a matrix [out, in * height * width]. With gradient g, B = momentum B + (1 - momentum) g
    and G = (1 - momentum) g + momentum B, the update is lr 0.2 sqrt(max(rows, columns)) U V^T, where G = U S V^T. The
    factor gives it the size of AdamW's updates, so that both take the same learning rate (Liu et al. 2025, arXiv
    2502.16982, eq. 4). torch.optim.Muon has no convolutions and no AdamW for the rest.
    """

    bytes_per_weight = 4  # nearly all weights are in matrices, which have one moment

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: LearningRate = 1e-3,
        momentum: FractionBelow1 = 0.95,
        betas: tuple[FractionBelow1, FractionBelow1] = (0.9, 0.999),
        weight_decay: NotNegativeNumber = 0.01,
        eps: NotNegativeNumber = 1e-8,
    ):
        super().__init__(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay, eps=eps)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None):  # pyrefly: ignore[bad-override] - the parent declares overloads for one function
        loss = evaluated(closure)
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # in TF32 the iteration of Gram matrices diverges
        try:
            for p, grad, group in gradients(self):
                if p.ndim > 1:
                    self._update(p, grad, self.state[p], group)
                    p.grad = None  # AdamW's step passes it over
        finally:
            torch.set_float32_matmul_precision(precision)
        super().step()
        return loss

    def _update(self, p: torch.Tensor, grad: torch.Tensor, state: dict, group: dict) -> None:
        if not state:
            # AdamW expects a tensor named step in every state that it loads
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(p, memory_format=torch.preserve_format))
        state["step"] += 1
        average = state["momentum"].lerp_(grad, 1 - self.momentum)
        update = orthogonalized(grad.lerp(average, self.momentum).flatten(1))
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update.view(p.shape).to(p.dtype), alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """Approximate U V^T of a matrix U S V^T, [rows, columns], by Newton-Schulz iterations: float32.

    Each iteration multiplies X by P = a I + b G + c G^2, where G = X X^T. All P are polynomials of the first G and
    commute, so G becomes P G P, and the product of all P meets the long side of X once, at the end.
    """
    if len(matrix) > matrix.shape[1]:  # the smaller Gram matrix
        return orthogonalized(matrix.T).T
    x = matrix.float()
    x = x / x.norm().clamp(min=torch.finfo(torch.float32).tiny)
    gram = x @ x.T
    factor = product = _factor(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product @ x


def _factor(gram: torch.Tensor) -> torch.Tensor:
    a, b, c = COEFFICIENTS
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor
