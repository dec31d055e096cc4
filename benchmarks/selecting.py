"""Over-generate and select: of a large bank keep the images that a teacher agrees with and that cover their class.

A class's images are ranked by the teacher's confidence in their label; the worse half is left out, and of the rest
k-center greedy (Sener & Savarese, arXiv 1708.00489) keeps those that cover the class in the teacher's features.
"""

from __future__ import annotations

from pathlib import Path

import torch
from paired import Judge
from torch import Tensor, nn

from raycondense.artifact.load import load
from raycondense.config import Config, EvaluationConfig
from raycondense.data.beton import BetonReader
from raycondense.data.normalize import Normalize
from raycondense.evaluation.baselines import baseline_set
from raycondense.evaluation.score import score_on_test_split
from raycondense.evaluation.train import ImageSet, train_student
from raycondense.seeds import derive_seed


def select_judge(train: Path, ipc: int, device: str) -> Judge:
    """A judge of `paired.Runner` that trains students on the best ``ipc`` images a class of an artefact's bank."""

    def judge(folder: Path, config: Config) -> float:
        artifact, settings = load(folder), config.evaluation
        normalize = Normalize(artifact.config.mean, artifact.config.std)
        teacher = _teacher(train, config, settings, normalize, device)
        bank = artifact.bank(normalize=False)
        kept = artifact.config.codebook.images_per_class(ipc)
        chosen = select(bank.images, bank.labels, teacher, normalize, kept, device)
        images = ImageSet(bank.images[chosen], bank.labels[chosen])
        validation = train.with_name(f"{train.stem}-val.beton")
        accuracies = []
        for student in range(settings.students):
            model = train_student(
                images, settings, architecture="convnet", num_classes=artifact.num_classes, normalize=normalize,
                seed=derive_seed("selected student", student), device=device,
            ).model  # fmt: skip
            score = score_on_test_split(
                model, validation, classes=artifact.classes, resolution=artifact.resolution, normalize=normalize,
                device=device,
            )  # fmt: skip
            accuracies.append(score.accuracy)
        return sum(accuracies) / len(accuracies)

    return judge


def _teacher(train: Path, config: Config, settings: EvaluationConfig, normalize: Normalize, device: str) -> nn.Module:
    classes = BetonReader(train).sidecar.num_classes
    return train_student(
        baseline_set("whole", train, ipc=0, seed=0, resolution=config.data.resolution), settings,
        architecture="convnet", num_classes=classes, normalize=normalize, seed=derive_seed("teacher"), device=device,
    ).model  # fmt: skip


@torch.no_grad()
def select(images: Tensor, labels: Tensor, teacher: nn.Module, normalize: Normalize, count: int, device: str) -> Tensor:
    """Positions of the ``count`` images of each class that are kept, in ascending order."""
    standardised = normalize.to(torch.device(device))(images.to(device))
    logits = torch.cat([teacher(part) for part in standardised.split(500)])
    features = torch.cat([teacher.embed(part) for part in standardised.split(500)])  # type: ignore[operator]
    features = torch.nn.functional.normalize(features, dim=1)
    confidence = logits.log_softmax(1).gather(1, labels.to(device)[:, None])[:, 0]
    chosen = []
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        own = confidence[members.to(device)]
        likely = members[own.argsort(descending=True).cpu()[: max(count, len(members) // 2)]]
        chosen.append(likely[k_center(features[likely.to(device)], count).cpu()])
    return torch.cat(chosen).sort().values


def k_center(features: Tensor, count: int) -> Tensor:
    """Positions [count] in features [n, d]: the first, then always the one that is farthest from those chosen."""
    chosen = [0]
    distance = (features - features[0]).square().sum(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (features - features[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)
