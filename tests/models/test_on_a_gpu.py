"""What only a GPU can show: its generators, its 16 bits, compiled models, steps as CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from helpers import draw
from torch import nn

from idl_lab import EquilibriumLayer, ImplicitModel, ImplicitRNN
from idl_lab.data import load
from idl_lab.layer import ImplicitGraph, normalised_adjacency
from idl_lab.training import evaluate, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def built(dtype=torch.float32, n=30, **options):
    torch.manual_seed(0)
    return ImplicitModel(64, 10, n, dtype=dtype, **{"device": "cuda"} | options)


def inputs(dtype=torch.float32):
    return draw(1, 8, 64).to("cuda", dtype)


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_a_generator_draws_the_same_twice(home):
    one, two = (built(generator=torch.Generator(home).manual_seed(3)) for _ in range(2))
    assert torch.equal(one.A, two.A) and one.A.is_cuda


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits(dtype):
    model = built()
    wanted = model(inputs())
    with torch.autocast("cuda", dtype):
        under = model(inputs())
    inside = model.to(dtype)(inputs(dtype))
    for found in (under, inside):
        found.float().sum().backward()
        assert (found.float() - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.filterwarnings("ignore")  # of torch's compiler's own making
def test_a_compiled_model_gives_the_same():
    model = built()
    assert torch.allclose(torch.compile(model)(inputs()), model(inputs()), atol=1e-5)


def test_sparse_products_on_a_graph():
    edges = torch.stack((torch.arange(29), torch.arange(1, 30)))
    adjacency = normalised_adjacency(edges, 30)
    torch.manual_seed(0)
    here = ImplicitGraph(3, 2, 8, device="cpu")
    there = ImplicitGraph(3, 2, 8, device="cuda")
    there.load_state_dict(here.state_dict())
    U = draw(2, 30, 3).float()
    wanted, found = here(U, adjacency), there(U.cuda(), adjacency.cuda())
    wanted.square().sum().backward()
    found.square().sum().backward()
    assert torch.allclose(found.cpu(), wanted, atol=1e-5)
    for p, q in zip(there.parameters(), here.parameters(), strict=True):
        assert torch.allclose(p.grad.cpu(), q.grad, atol=1e-4)


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.eye(64).roll(1, 0))

    def forward(self, z, u):  # a contraction, whatever W becomes
        return torch.tanh(z @ (self.W * (0.8 / self.W.abs().sum(1).max()).clamp(max=1)).mT + u)


MODELS = {
    "Picard": built,
    "row": lambda: built(constraint="row"),
    "rank 3": lambda: built(rank=3),
    "monotone": lambda: built(constraint="monotone"),
    "recurrent": lambda: nn.Sequential(nn.Unflatten(1, (8, 8)),
                                       ImplicitRNN(8, 10, 16, 20, device="cuda")),
    "any layer": lambda: nn.Sequential(EquilibriumLayer(Step()), nn.Linear(64, 10)).cuda(),
}


# A contraction by 0.8 needs more steps than the first ones that a graph takes: that is warned of.
@pytest.mark.filterwarnings("ignore:.*captured training steps were short")
@pytest.mark.parametrize("name", MODELS)
def test_training_from_a_graph_ends_where_eager_training_does(name):
    losses, scores = [], []
    for capture in (None, "auto"):
        torch.manual_seed(0)
        model = MODELS[name]()
        train, test = load("digits", seed=0)
        history = fit(model, train, epochs=4, capture=capture, progress=False)
        losses.append(history["train_loss"].iloc[-1])
        scores.append(evaluate(model, test))
    print(f"{name}: captured {history.attrs['captured']} of {4 * len(train)} steps, accuracy "
          f"{scores[0]:.3f} eager, {scores[1]:.3f} captured")
    assert abs(losses[1] - losses[0]) < 0.1 * losses[0] + 0.02
    assert abs(scores[1] - scores[0]) < 0.04
    if name in ("Picard", "row", "rank 3", "recurrent"):
        assert history.attrs["captured"] > 2 * len(train)


@pytest.mark.parametrize("tf32", [False, True])
def test_a_convolution_is_read_off_whatever_its_products_are_rounded_to(tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
                        nn.Linear(72, 10)).cuda()
    x = draw(3, 4, 1, 8, 8).float().cuda()
    model = ImplicitModel.from_network(net, input_shape=(1, 8, 8), rescale=True)
    found, wanted = model(x.flatten(1)), net(x)
    assert found.is_cuda and (found - wanted).abs().max() < (1e-2 if tf32 else 1e-5)
