"""Which form of the intra-class and inter-class losses helps students, and how much of it?

Runs of the same seed share extractors and initialisation and differ in the losses of the condensation alone; each is
judged by students on validation images, so nothing is chosen by test images. Differences to ``base`` are paired by
seed. Stopped at any time, the same command goes on (``--out`` keeps one line a run)::

    raycondense prepare 'cifar10/train-*.parquet' c16/train.beton --resolution 16 --val-fraction 0.1
    python benchmarks/loss_forms.py --data c16/train.beton --out runs/forms \\
        --variants base inter:3 intra:3 inter:3+intra:3 --seeds 0 1 2 3 4

A variant is ``base`` (matching of means and cross-entropy 0.5) or terms with their weights joined by ``+``:

==========  ==========================================================================================================
intra       the repulsion of `raycondense.losses.intra_class`, bounded by the spread of real images
naive       the same without its bound
inter       `raycondense.losses.inter_class`
ce          cross-entropy under the pool's networks, instead of 0.5
cf          characteristic functions (NCFM) instead of means, with that weight
spread      squared distance of the standard deviations of unit features, real against synthetic, by class
cover       coverage: every real image should have a synthetic one near it, ``−mean_m log mean_k exp(cos/τ)``
mmd         repulsion of synthetic images less twice their attraction to real ones, in the log-mean-exp form
prototype   cross-entropy of synthetic features over cosines to the real centers of all classes
relative    centers at least as far apart as real ones, ``Σ max(0, cos μ_c μ_c' − cos of the real ones)²``
==========  ==========================================================================================================
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from paired import Runner, paired_table, threads
from provenance import provenance
from torch import Tensor

from raycondense.configfile import override
from raycondense.evaluation.protocols import protocol
from raycondense.losses._numerics import log_mean_exp_of_others, unit
from raycondense.presets import get_preset
from raycondense.step import CondenseStep, Seen, Targets

TEMPERATURE = 0.1
SETTINGS: dict[str, Any] = {
    "data": {"loader": "resident", "resolution": 16, "num_classes": 10},
    "generator": {"width": 32, "max_width": 64, "class_dim": 16},
    "codebook": {"ipc": [10], "dim": 64},
    "extractors": {"width": 32, "weights": "blend", "pool_size": 6, "train_steps": 80},
    "losses": {"ce": 0.5, "intra": 0.0, "inter": 0.0},
    "initialise": {"steps": 300, "batch": 100},
    "condense": {"images": 128_000, "real_per_class": 64, "ema_images": 10_000, "checkpoint_images": 10**9},
    "cluster": {"workers": 0},
}  # fmt: skip
OWN = {"intra": "losses.intra", "naive": "losses.intra", "inter": "losses.inter", "ce": "losses.ce"}
Form = Callable[[Tensor, Tensor], Tensor]


def spread(real: Tensor, synthetic: Tensor) -> Tensor:
    deviations = [unit(features).var(dim=1).add(1e-10).sqrt() for features in (real, synthetic)]
    return (deviations[0] - deviations[1]).square().sum(-1).mean()


def cover(real: Tensor, synthetic: Tensor) -> Tensor:
    return -_log_mean_exp(unit(real) @ unit(synthetic).mT / TEMPERATURE).mean()


def mmd(real: Tensor, synthetic: Tensor) -> Tensor:
    own = unit(synthetic)
    repulsion = log_mean_exp_of_others(own @ own.mT / TEMPERATURE).mean()
    return repulsion - 2 * _log_mean_exp(own @ unit(real).mT / TEMPERATURE).mean()


def prototype(real: Tensor, synthetic: Tensor) -> Tensor:
    centers = unit(unit(real).mean(dim=1))
    logits = torch.einsum("ckd,ed->cke", unit(synthetic), centers) / TEMPERATURE
    labels = torch.arange(len(centers), device=centers.device).repeat_interleave(synthetic.shape[1])
    return F.cross_entropy(logits.flatten(0, 1), labels)


def relative(real: Tensor, synthetic: Tensor) -> Tensor:
    theirs, own = (unit(features.mean(dim=1)) for features in (real, synthetic))
    return (own @ own.T - theirs @ theirs.T).clamp_min(0).square().sum(-1).mean()


def _log_mean_exp(values: Tensor) -> Tensor:
    return torch.logsumexp(values, dim=-1) - torch.log(values.new_tensor(values.shape[-1]))


FORMS: dict[str, Form] = {
    "spread": spread, "cover": cover, "mmd": mmd, "prototype": prototype, "relative": relative,
}  # fmt: skip


def settings_of(variant: str) -> tuple[dict[str, Any], list[tuple[Form, float]]]:
    """Configuration changes of a variant, and the forms that are added to its losses."""
    changes: dict[str, Any] = {}
    added: list[tuple[Form, float]] = []
    for term in variant.split("+"):
        name, _, weight = term.partition(":")
        if name == "base":
            continue
        if name in FORMS:
            added.append((FORMS[name], float(weight)))
        elif name == "cf":
            changes |= {"losses.matching": "characteristic", "losses.matching_weight": float(weight)}
        elif name in OWN:
            changes |= {OWN[name]: float(weight), **({"losses.intra_bounded": False} if name == "naive" else {})}
        else:
            raise SystemExit(f"--variants: found {term!r}, valid: base, cf, {', '.join((*OWN, *FORMS))}")
    return changes, added


def added_losses(added: list[tuple[Form, float]]) -> Any:
    """Inside of it a step's matching loss is larger by the added forms."""
    plain = CondenseStep._losses

    def losses(self: CondenseStep, seen: Seen, labels: Tensor, targets: Targets, *rest: Any) -> dict[str, Tensor]:
        named = plain(self, seen, labels, targets, *rest)
        if added:
            features = seen.embedding.float().unflatten(0, (len(targets.features), -1))
            named["match"] = named["match"] + sum(weight * form(targets.features, features) for form, weight in added)
        return named

    return patch.object(CondenseStep, "_losses", losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="16-px train beton, its -val beside it")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="+", default=["base", "inter:3", "intra:3", "inter:3+intra:3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    threads(1)
    runner, records = Runner(arguments.data, arguments.out), []
    base = override(get_preset("cifar10"), SETTINGS)
    base = dataclasses.replace(base, evaluation=dataclasses.replace(protocol("fast"), width=32, batch=100))
    for seed in arguments.seeds:
        for variant in arguments.variants:
            changes, added = settings_of(variant)
            config = override(override(base, changes), {"seed": seed})
            label = variant if added else ""
            records.append(runner.run("forms", variant, config, changed=added_losses(added), label=label))
        print("\n".join(paired_table(records, "base", "losses")), flush=True)
    print("\n".join(provenance(threads=1)))


if __name__ == "__main__":
    main()
