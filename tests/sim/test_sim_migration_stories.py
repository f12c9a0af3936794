"""What torchidl's tutorial, README and example scripts do, with the import line changed.

The stories are told in words of our own, call by call as there; `originals` runs those files
themselves, from the package index.
"""

import json
import os
import random
import re
import runpy
import subprocess
import sys
import tarfile
import textwrap
import warnings

import fake_torchvision
import numpy as np
import pytest
import torch
from torch import nn


def ported(code):
    """The code with torchidl's modules, which its examples call idl, turned to ours."""
    return re.sub(r"^(\s*(?:from|import) )(?:torchidl|idl)\b", r"\1idl_lab.torchidl",
                  textwrap.dedent(code), flags=re.MULTILINE)


@pytest.fixture
def tell(monkeypatch, tmp_path):
    """Runs a story in an empty folder where there is a torchvision; its variables."""
    for name, module in fake_torchvision.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    random.seed(0)
    torch.manual_seed(0)

    def run(code, **names):
        exec(compile(ported(code), "a stranger's code", "exec"), names := {"torch": torch, **names})
        return names

    return run


class Net(nn.Module):
    """The tutorial's teacher in its form: bias-free, and its forward looks at the input's shape."""

    def __init__(self, *widths):
        super().__init__()
        layers = [[nn.Linear(p, q, bias=False), nn.ReLU()]
                  for p, q in zip(widths, widths[1:], strict=False)]
        self.stack = nn.Sequential(*[part for layer in layers for part in layer][:-1])

    def forward(self, x):
        if x.ndim == 4:
            x = x.squeeze(1).flatten(start_dim=-2)
        return self.stack(x)


PICTURES = """
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    steps = transforms.Compose([transforms.ToTensor()])
    train_loader, test_loader = (
        DataLoader(datasets.FashionMNIST("data", train=train, download=True, transform=steps),
                   batch_size=128) for train in (True, False))
"""
TEACHING = """
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    batches = list(train_loader)
    for epoch in range(15):
        for U, target in batches:
            optimizer.zero_grad()
            torch.nn.CrossEntropyLoss(reduction="sum")(model(U), target).backward()
            optimizer.step()
"""
TUTORIAL = """
    from torchidl import SIM
    from torchidl import CVXSolver

    few = Subset(train_loader.dataset, random.sample(range(len(train_loader.dataset)), 400))
    few_loader = DataLoader(few, batch_size=200, shuffle=True)

    sim = SIM(activation_fn=torch.nn.functional.relu, device=device, dtype=torch.float32)
    solver = CVXSolver(regen_states=True)
    sim.train(solver=solver, model=model, dataloader=few_loader)
    percent = sim.evaluate(test_loader) * 100
"""
README = """
    import torch
    from torchidl import SIM
    from torchidl import CVXSolver

    explicit_model = MLP(784, 20, 10).to(device)
    explicit_model.load_state_dict(torch.load("checkpoint.pt"))

    sim = SIM(activation_fn=torch.nn.functional.relu, device=device)
    solver = CVXSolver()
    sim.train(solver=solver, model=explicit_model, dataloader=train_loader)
    sim.evaluate(test_loader)
"""
TRAIN_SIM = """
    from idl.sim import SIM
    from idl.sim.solvers import ADMMSolver

    few = Subset(train_loader.dataset, random.sample(range(len(train_loader.dataset)), 400))
    sim = SIM(activation_fn=torch.nn.functional.relu, device=device, dtype=torch.float32)
    solver = ADMMSolver(num_epoch_ab=1500, num_epoch_cd=120, lambda_y=1.0, lambda_z=1.0,
                        rho_ab=1.0, rho_cd=1.0, batch_feature_size=120, regen_states=False)
    sim.train(solver=solver, model=model, dataloader=DataLoader(few, batch_size=200))
    accuracy = sim.evaluate(test_loader)
"""


def taught(tell):
    names = tell(PICTURES, random=random, device="cpu", model=Net(784, 20, 12, 10))
    exec(compile(textwrap.dedent(TEACHING), "teaching", "exec"), names)
    with torch.no_grad():
        hits = [(names["model"](U).argmax(1) == y).float() for U, y in names["test_loader"]]
    return names, torch.cat(hits).mean().item()


def test_the_tutorials_sim(tell, monkeypatch):
    names, teachers = taught(tell)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # no processes, whose start takes seconds
    found = tell(TUTORIAL, **names)
    assert teachers > 0.8 and found["percent"] > 100 * teachers - 3
    A, B = found["sim"].weights["A"], found["sim"].weights["B"]
    assert abs(A).sum(axis=1).max() <= 0.99 and A.shape == (32, 32) and B.shape == (32, 784)


def test_the_readmes_sim(tell, monkeypatch, capsys):
    names, _ = taught(tell)
    few = [(U, y) for U, y in names["train_loader"]][:6]
    model = Net(784, 20, 10)
    exec(compile(textwrap.dedent(TEACHING), "teaching", "exec"),
         {**names, "model": model, "train_loader": few * 10})
    torch.save(model.state_dict(), "checkpoint.pt")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    tell(README, **{**names, "MLP": Net, "train_loader": few})
    said = re.fullmatch(r"Test accuracy: (\d+\.\d\d)%\n", capsys.readouterr().out)
    assert float(said[1]) > 60


def test_the_example_that_trains_sim(tell):
    names, teachers = taught(tell)
    with pytest.warns(UserWarning) as seen:
        found = tell(TRAIN_SIM, **names)
    assert ["makes no use of num_epoch_ab, num_epoch_cd, rho_ab" in str(seen[0].message),
            "the student is poor" in str(seen[1].message), len(seen)] == [True, True, 2]
    assert found["accuracy"] > 0.6 and teachers > 0.8  # λ = 1 costs that much
    sparse = np.mean(found["sim"].weights["A"] == 0)
    assert sparse > 0.3 and found["solver"].results["state"].status.name == "SOLVED"


# --- the files themselves -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """torchidl 0.0.4 as it was published, its code turned to ours and to the CPU."""
    folder = tmp_path_factory.mktemp("torchidl")
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:",
         "torchidl==0.0.4", "-d", folder], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"torchidl cannot be fetched: {fetched.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    root = next(folder.glob("torchidl-*/"))
    for file in root.rglob("examples/**/*.py"):
        file.write_text(on_the_cpu(file.read_text(encoding="utf-8")), encoding="utf-8")
    (root / "data").mkdir()
    return root


def on_the_cpu(code):
    code = ported(code).replace('"cuda:1"', '"cpu"').replace('device="cuda"', 'device="cpu"')
    return code.replace("num_workers=4", "num_workers=0")


def run_script(monkeypatch, root, name, line=""):
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", [name, *line.split()])
    monkeypatch.setattr(sys, "path", [str(root), str(root / "examples/sim"), *sys.path])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # files that the scripts leave open
        if name.endswith(".py"):
            return runpy.run_path(name, run_name="__main__")
        return runpy.run_module(name, run_name="__main__")


SMALL = "--hidden_dim 22 --epochs 1 --device 0 --kappa 0.99 --is_low_rank True --rank 2"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("default")
def test_the_original_scripts(tell, originals, monkeypatch, capsys):
    run_script(monkeypatch, originals, "examples/sim/train_explicit.py",
               "--epochs 40 --learning_rate 0.001")
    assert run_script(monkeypatch, originals, "examples/sim/train_sim.py")["test_acc"] > 0.7
    run_script(monkeypatch, originals, "examples.idl.main", f"--dataset mnist {SMALL}")
    run_script(monkeypatch, originals, "examples.idl_rnn.main",
               f"--dataset spiky --look_back 10 --implicit_hidden_dim 20 {SMALL}")
    said = capsys.readouterr().out
    assert "Training complete." in said and "Test R square: " in said


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("default")
def test_the_original_tutorial_and_readme(tell, originals, monkeypatch, capsys):
    names = {}
    for cell in json.loads((originals / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(on_the_cpu("".join(cell["source"])), "a cell", "exec"), names)
    said = [float(p) for p in re.findall(r"[Aa]ccuracy: (\d+\.\d+)%", capsys.readouterr().out)]
    assert said[-1] > said[-2] - 3  # the student's, and the teacher's
    blocks = re.findall(r"```python\n(.*?)```",
                        (originals / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    few = [batch for batch, _ in zip(names["train_loader"], range(4), strict=False)]
    torch.save(names["Model"](784, 10).state_dict(), "checkpoint.pt")
    given = {"torch": torch, "device": "cpu", "num_epochs": 1, "input_dim": 784, "hidden_dim": 0,
             "output_dim": 10, "MLP": lambda p, _, q: names["Model"](p, q), "few": few,
             "wide": [(torch.randn(8, 3072), torch.arange(8))]}
    for block, data in zip(blocks, ("wide, wide", "few, few"), strict=True):
        exec(compile(on_the_cpu(block.replace("= ...", f"= {data}")), "the README", "exec"), given)
    assert "Test accuracy" in capsys.readouterr().out
