"""Fine-tunes a detector's class layer in PyTorch, on photographs in folders by class.

    python docs/finetune_in_pytorch.py --source=palm_full --data=photos \\
        --classes=0,1,2,3,4,5,6 --output=out/signs.pth
    python -m ondevice.pytorch import --source=palm_full --state_dict=out/signs.pth \\
        --classes=0,1,2,3,4,5,6 --output_dir=out/signs
    python -m ondevice.evaluate --model=out/signs/model.tflite --data=unseen_photos \\
        --labels_from=out/signs.vendor.tflite --frame=0.55

The class layer is changed as one does in PyTorch: every weight is frozen, and the class
heads are replaced by new ones of as many outputs for each anchor as there are classes.
With --whole_epochs all weights learn afterwards. Boxes are drawn by the vendor's file,
of which a copy is left beside the output; targets are those of
`ondevice.detection.targets`, the loss is the focal one.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys

import torch
import tqdm
from torch import nn
from torch.nn import functional

from ondevice import sources, torch_models
from ondevice.detection import anchors, targets
from ondevice.device import batches, image_cache, labelled, opening, supplies
from ondevice.rebuild import torch_network

BATCH = 16
# The new layer has everything to learn, the rest next to nothing.
LAYER_RATE, WHOLE_RATE = 3e-3, 1e-4


def change_class_layer(model: torch_network.Detector, classes: int) -> list[nn.Module]:
    """Freezes every weight and gives the class heads K outputs for each anchor.

    A new head begins as the vendor's, once for each class, at a K-th of its score.
    """
    model.requires_grad_(False)
    changed = []
    for name in [n for n, _ in model.named_children() if n.startswith("class")]:
        old = model.get_submodule(name)
        new = nn.Conv2d(old.in_channels, old.out_channels * classes, 1)
        with torch.no_grad():
            new.weight.copy_(old.weight.repeat_interleave(classes, 0))
            new.bias.copy_(old.bias.repeat_interleave(classes, 0))
            new.bias.sub_(torch.tensor(float(classes)).log())
        setattr(model, name, new)
        changed.append(new)
    return changed


def loss_of(
    outputs: torch_network.Outputs, batch: dict[str, torch.Tensor], side: int
) -> torch.Tensor:
    """Focal loss of every class, smooth L1 of the boxes; a mean over positive anchors.

    Source: the same equations as `signatures.losses`.
    """
    wanted, logits = batch["class_targets"], outputs.classificators
    positive = wanted.amax(-1)
    signed = (2 * wanted - 1) * logits
    weight = 0.25 * wanted + 0.75 * (1 - wanted)
    focal = weight * torch.sigmoid(-signed) ** 2 * functional.softplus(-signed)
    scores = (batch["anchor_weights"] * focal.sum(-1)).sum(1)
    error = (outputs.regressors - batch["box_targets"]) / (0.1 * side)
    distance = functional.smooth_l1_loss(
        error, torch.zeros_like(error), reduction="none"
    )
    boxes = (positive * distance.sum(-1)).sum(1)
    images = batch["sample_weights"]
    per_image = (scores + boxes) / positive.sum(1).clamp(min=1)
    return (images * per_image).sum() / images.sum()


def photographs(
    model: torch_network.Detector, options: argparse.Namespace
) -> batches.Batches:
    """Batches of labelled photographs; the vendor's file draws the boxes."""
    classes = tuple(options.classes.split(","))
    cache = image_cache.ImageCache(side=2 * model.spec.input_size)
    output = pathlib.Path(options.output)
    vendor_file = output.with_suffix(".vendor.tflite")
    vendor_file.write_bytes(sources.locate(options.source).data)
    (dataset,) = labelled.load(
        [options.data],
        classes,
        lambda: opening.open_detector(vendor_file),
        cache,
        output.parent,
        lambda items, what: tqdm.tqdm(items, desc=what, disable=None),
    )
    spec = model.spec
    return batches.Batches(
        dataset.labelled().samples,
        targets.Matcher(anchors.PRESETS[spec.name], len(classes), spec.keypoints),
        spec.input_range,
        BATCH,
        dataclasses.replace(supplies.DRAWN, frame=(0.4, 0.8)),
        cache=cache,
        threads=1,
    )


def train(
    model: torch_network.Detector,
    weights: list[nn.Parameter],
    rate: float,
    supply: batches.Batches,
    epochs: range,
) -> None:
    """Adam over these weights, the rate falling to nothing."""
    if not epochs:
        return
    optimizer = torch.optim.Adam(weights, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, len(epochs) * supply.steps
    )
    for epoch in epochs:
        total = 0.0
        for arrays in tqdm.tqdm(
            supply.epoch(epoch), f"epoch {epoch + 1}", supply.steps, disable=None
        ):
            batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
            outputs = model(batch["image"].permute(0, 3, 1, 2))
            loss = loss_of(outputs, batch, model.spec.input_size)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / supply.steps:.4f}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", default="palm_full")
    parser.add_argument("--data", required=True)
    parser.add_argument("--classes", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--whole_epochs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = torch_models.load(options.source)
    layer = change_class_layer(model, len(options.classes.split(",")))
    os.makedirs(pathlib.Path(options.output).parent, exist_ok=True)
    supply = photographs(model, options)
    first, last = options.epochs, options.epochs + options.whole_epochs
    new = [weight for module in layer for weight in module.parameters()]
    train(model, new, LAYER_RATE, supply, range(first))
    model.requires_grad_(True)
    train(model, [*model.parameters()], WHOLE_RATE, supply, range(first, last))
    torch.save(model.state_dict(), options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
