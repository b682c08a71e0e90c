"""A tiny random Mask2Former for COCO's instances, in the layout of the hub's repositories."""

from pathlib import Path

import torch
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)
from transformers.utils import logging

from bench.detection.names import OBJECT_NAMES

_COCO = {"computer mouse": "mouse", "tv remote": "remote", "computer keyboard": "keyboard"}
LABELS = tuple(_COCO.get(name, name) for name in OBJECT_NAMES)


def save_tiny_mask2former(folder: Path, labels: tuple[str, ...] = LABELS) -> None:
    """Write the checkpoint, with COCO's own labels."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    network = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=32,
            dim_feedforward=32,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            num_queries=10,
            id2label=dict(enumerate(labels)),
            label2id={label: number for number, label in enumerate(labels)},
        )
    )
    with torch.no_grad():
        network.class_predictor.weight.mul_(20)  # so that classes are not equally probable
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    Mask2FormerImageProcessorPil(image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]).save_pretrained(folder)
