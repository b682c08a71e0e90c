"""GenEval's scorer over transformers' Mask2Former and CLIP, in place of the official one over mmdetection."""
