"""How well a linear classifier tells classes apart by given features."""

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 0.1


def linear_probe(features: Tensor, labels: Tensor, held_out: Tensor, held_out_labels: Tensor) -> float:
    """Accuracy on features (M, D) with labels (M,) of a ridge regression from features (N, D) onto one-hot labels (N,).

    In closed form, on standardised features, in float64: it has no learning rate, epochs or seed, so that numbers of
    blocks and of runs differ by the features alone. Accuracies of logistic probes trained for epochs, as REPA's (90,
    with batch norm), are higher where classes are many, and do not compare with these.
    """
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-6)
    train, test = (F.pad((x.double() - mean) / std, (0, 1), value=1.0) for x in (features, held_out))
    identity = torch.eye(train.shape[1], dtype=torch.float64, device=train.device)
    targets = F.one_hot(labels).to(train)
    weights = torch.linalg.solve(train.T @ train + RIDGE * identity, train.T @ targets)
    return (test @ weights).argmax(1).eq(held_out_labels).double().mean().item()
