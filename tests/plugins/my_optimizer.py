"""An optimizer: Lion (Chen et al. 2023, arXiv 2302.06675), which steps by the sign of a momentum.

python train.py plugins=my_optimizer.py optimizer._target_=my_optimizer.Lion '~optimizer.eps' optimizer.lr=1e-4
"""

import torch


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure and torch.enable_grad()(closure)()
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - lr * group["weight_decay"]).sub_(lr * momentum.lerp(p.grad, 1 - beta1).sign())
                momentum.lerp_(p.grad, 1 - beta2)
        return loss
