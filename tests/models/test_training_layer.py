"""fit with a layer that is an equilibrium: its Jacobian as a penalty."""

import torch
from helpers import draw
from torch import nn

from idl_lab.layer import EquilibriumLayer
from idl_lab.training import fit


class F(nn.Module):
    def __init__(self):
        super().__init__()
        self.z, self.u = (nn.Linear(6, 6, dtype=torch.float64) for _ in range(2))

    def forward(self, z, u):
        return torch.tanh(self.z(z) + self.u(u))


def jacobian_norm(layer, u):
    """‖∂f/∂z‖²_F / n, the mean over the samples, by torch.func alone."""
    with torch.no_grad():
        z = layer(u)
        J = torch.func.vmap(torch.func.jacrev(lambda z, u: layer.f(z, u)))(z, u)
    return float(J.detach().square().sum((1, 2)).mean() / z.shape[1])


def test_the_penalty_is_the_jacobians_and_makes_it_smaller():
    U = draw(0, 60, 6)
    y = (U @ draw(1, 6, 3)).argmax(1)
    sizes = {}
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        layer = EquilibriumLayer(F())
        net = nn.Sequential(layer, nn.Linear(6, 3, dtype=torch.float64))
        before = jacobian_norm(layer, U)
        table = fit(net, [(U, y)], epochs=30, lr=1e-2, progress=False,
                    penalty=lambda layer=layer, w=weight: w * layer.jacobian_penalty())
        sizes[weight] = jacobian_norm(layer, U)
        if weight:
            assert abs(table["penalty"].iloc[0] / weight - before) < 0.2 * before
            assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0]
    assert sizes[3.0] < 0.5 * sizes[0.0], sizes
