"""A transformers model with predictions as parameters, to test every loss function."""

from __future__ import annotations

from typing import Any

import torch
from detr_models import NAMES, batch, transformers
from torch import Tensor, nn

from scalewise.weighting import LossBalancer

LAYERS, QUERIES, GROUPS, MOST = 3, 8, 2, 3  # GROUPS groups of denoising queries for MOST objects
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "DetrForObjectDetection": ("DetrConfig", {}),
    "ConditionalDetrForObjectDetection": ("ConditionalDetrConfig", {}),
    "LwDetrForObjectDetection": ("LwDetrConfig", {"group_detr": 2, "class_loss_coefficient": 2.0}),
    "RTDetrForObjectDetection": ("RTDetrConfig", {}),
    "DFineForObjectDetection": ("DFineConfig", {}),
    "Deimv2ForObjectDetection": ("Deimv2Config", {"use_dense_one_to_one": False}),
}
COUNTS = (3, 1)


def build(self: Any, config: Any, arguments: dict[str, Tensor]) -> None:
    transformers.PreTrainedModel.__init__(self, config)
    self.found = nn.ParameterDict(arguments)


def forward(self: Any, labels: Any, pixel_mask: Any = None) -> Any:
    given: dict[str, Any] = dict(self.found)
    if "enc_topk_logits" in given:
        given |= {"logits": given["outputs_class"][:, -1]}
        given |= {"pred_boxes": given["outputs_coord"][:, -1]}
        first = 2 * MOST * GROUPS
        noisy = [
            torch.tensor(
                [2 * MOST * g + k for g in range(GROUPS) for k in range(len(one["boxes"]))]
            )
            for one in labels
        ]
        given["denoising_meta_values"] = {
            "dn_num_split": [first, QUERIES],
            "dn_positive_idx": noisy,
            "dn_num_group": GROUPS,
        }
    loss, terms, _ = self.loss_function(
        labels=labels, device=torch.device("cpu"), config=self.config, **given
    )
    return transformers.utils.ModelOutput(loss=loss, terms=terms)


def predictions(kind: str, seed: int = 0, **others: Any) -> Any:
    """A model with predictions for two images as its parameters."""
    draw = torch.Generator().manual_seed(seed)
    name, settings = SETTINGS[kind]
    common = {"id2label": NAMES, "auxiliary_loss": True, "decoder_layers": LAYERS}
    config = getattr(transformers, name)(**common | settings | others)
    classes = len(NAMES) + (kind == "DetrForObjectDetection")
    later = hasattr(config, "matcher_class_cost")
    queries = QUERIES + (2 * MOST * GROUPS if later else 0)
    lead = (2, LAYERS, queries) if later else (LAYERS, 2, queries)

    def boxes(*shape: int) -> Tensor:
        low = torch.tensor([0.3, 0.3, 0.05, 0.05])
        return low + torch.tensor([0.4, 0.4, 0.3, 0.3]) * torch.rand(*shape, 4, generator=draw)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    given = {"outputs_class": noise(*lead, classes), "outputs_coord": boxes(*lead)}
    if later:
        given |= {"enc_topk_logits": noise(2, QUERIES, classes)}
        given |= {"enc_topk_bboxes": boxes(2, QUERIES)}
    else:
        given |= {"logits": noise(2, queries, classes), "pred_boxes": boxes(2, queries)}
    if hasattr(config, "max_num_bins"):
        given["predicted_corners"] = noise(*lead, 4 * (config.max_num_bins + 1))
        given["initial_reference_points"] = boxes(*lead)
    if hasattr(config, "group_detr"):
        given |= {"enc_outputs_class": noise(2, QUERIES, classes)}
        given |= {"enc_outputs_coord": boxes(2, QUERIES)}
    model = type(kind, (transformers.PreTrainedModel,), {"__init__": build, "forward": forward})
    return model(config, given).train()


def labels_of(counts: tuple[int, ...] = COUNTS) -> Any:
    return batch(counts)["labels"]


def gradients(model: Any, labels: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradient of each of the predictions."""
    model.zero_grad()
    loss = model(labels=labels).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.found.items() if p.grad is not None}


def draw_weights(balancer: LossBalancer) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    balancer.weights.copy_(0.2 + 1.6 * torch.rand(balancer.num_groups, generator=draw))
    return balancer.weights.clone()


def seen(model: Any, labels: Any) -> dict[str, Any]:
    """The arguments of a model's loss function."""
    theirs, given = model.loss_function, {}

    def note(**named: Any) -> Any:
        given.update(named)
        return theirs(**named)

    model.loss_function = note
    model(labels=labels)
    del model._loss_function
    return given
