"""One model on one device: which images are drawn, one step after another. No HTTP."""
