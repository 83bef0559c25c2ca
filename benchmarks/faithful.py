"""What a learned spread does to the mean: the toy problem of Stirn et al. (AISTATS 2023).

Run: python benchmarks/faithful.py [--epochs 20000] [--seed 1] [--json FILE]

498 points with x uniform in 2.5 to 7.5 and y = x sin x + N(0, 0.1 + 0.5 x), and two without noise
far from them, at x = 0.5 and 9.5. Mean and spread are separate networks, each with one hidden layer
of 50 ELU, trained by Adam at 1e-3 on all points at once. A joint likelihood explains the point at
9.5 by a large spread instead of moving the mean there; a faithful loss leaves the mean bit for bit
where the squared error alone puts it ("same mean"). RMSE is over the training points.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from machine import machine
from xec.models.heads import bounded
from xec_training.losses import LossKind, elements

ISOLATED = (0.5, 9.5)
KINDS = {
    "mse": LossKind("mse"),
    "faithful": LossKind("faithful"),
    "split_nll": LossKind("split_nll"),
    "nll": LossKind("nll"),
    "beta_nll 0.5": LossKind("beta_nll", beta=0.5),
    "beta_nll 1": LossKind("beta_nll", beta=1.0),
}


def curve(x: Tensor) -> Tensor:
    """The mean of y at x."""
    return x * torch.sin(x)


def toy(seed: int, points: int = 500) -> tuple[Tensor, Tensor]:
    """The x and y of the training, (points, 1); the last two are the isolated ones."""
    generator = torch.Generator().manual_seed(seed)
    x = 2.5 + 5.0 * torch.rand(points - len(ISOLATED), 1, generator=generator)
    noise = (0.1 + 0.5 * x) * torch.randn(x.shape, generator=generator)
    isolated = torch.tensor(ISOLATED).unsqueeze(1)
    return torch.cat([x, isolated]), torch.cat([curve(x) + noise, curve(isolated)])


def perceptron() -> nn.Sequential:
    """One hidden layer of 50 ELU."""
    return nn.Sequential(nn.Linear(1, 50), nn.ELU(), nn.Linear(50, 1))


class Subject:
    """One loss with its own pair of networks, all with the same initial weights."""

    def __init__(self, kind: LossKind, seed: int) -> None:
        torch.manual_seed(seed)
        self.kind = kind
        self.mean, self.spread = perceptron(), perceptron()
        parameters = [*self.mean.parameters(), *self.spread.parameters()]
        self.optimiser = torch.optim.Adam(parameters, lr=1e-3)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One epoch: all points at once."""
        centre, spread = elements(self.kind, self.mean(x), bounded(self.spread(x)), y)
        loss = centre if spread is None else centre + spread
        self.optimiser.zero_grad(set_to_none=True)
        loss.mean().backward()
        self.optimiser.step()

    @torch.no_grad()
    def row(self, x: Tensor, y: Tensor, reference: Subject) -> dict[str, Any]:
        """RMSE, errors at the isolated points, and whether the mean is the reference's."""
        error = (self.mean(x) - y).squeeze(1)
        weights = zip(self.mean.parameters(), reference.mean.parameters(), strict=True)
        sigma = bounded(self.spread(x)).exp().squeeze(1)
        return {
            "rmse": error.square().mean().sqrt().item(),
            "error_at_0.5": error[-2].item(),
            "error_at_9.5": error[-1].item(),
            "sigma_at_9.5": sigma[-1].item() if self.kind.trains_spread else None,
            "mean_equals_mse": all(torch.equal(a, b) for a, b in weights),
        }


def train(subjects: dict[str, Subject], x: Tensor, y: Tensor, epochs: int) -> Iterator[int]:
    """Train all subjects, yielding after each thousandth of their epochs."""
    chunk = max(1, epochs // 1000)
    for subject in subjects.values():
        for start in range(0, epochs, chunk):
            count = min(chunk, epochs - start)
            for _ in range(count):
                subject.step(x, y)
            yield count


def table_of(rows: dict[str, dict[str, Any]], caption: str) -> Table:
    """The rows for people."""
    table = Table(title="Errors of the mean under a learned spread (Stirn's toy)", caption=caption)
    for name in ("loss", "RMSE", "at 0.5", "at 9.5", "sigma at 9.5", "same mean"):
        table.add_column(name, justify="right")
    for name, row in rows.items():
        sigma = row["sigma_at_9.5"]
        table.add_row(
            name,
            f"{row['rmse']:.4f}",
            f"{row['error_at_0.5']:+.2f}",
            f"{row['error_at_9.5']:+.2f}",
            "" if sigma is None else f"{sigma:.2f}",
            "yes" if row["mean_equals_mse"] else "no",
        )
    return table


def arguments_of_command() -> argparse.Namespace:
    """What to train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="of points and initial weights")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Train, print a table, write JSON."""
    arguments = arguments_of_command()
    torch.set_num_threads(1)  # the tensors are small, and sums must not depend on the machine
    x, y = toy(arguments.seed)
    subjects = {name: Subject(kind, arguments.seed) for name, kind in KINDS.items()}
    with Progress() as progress:
        task = progress.add_task("training", total=len(subjects) * arguments.epochs)
        for count in train(subjects, x, y, arguments.epochs):
            progress.advance(task, count)
    rows = {name: subject.row(x, y, subjects["mse"]) for name, subject in subjects.items()}
    where = {**machine(), "torch": torch.__version__}
    settings = {"epochs": arguments.epochs, "seed": arguments.seed, "synthetic": True}
    caption = ", ".join(f"{key} {value}" for key, value in {**settings, **where}.items())
    Console().print(table_of(rows, caption))
    if arguments.json is not None:
        report = {"machine": where, "settings": settings, "losses": rows}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
