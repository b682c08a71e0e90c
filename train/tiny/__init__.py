"""The shipped checkpoints from nothing: tokenizers, network, and the pipeline that trains them."""
