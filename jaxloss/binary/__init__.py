"""Binary losses, elementwise: one logit, score, probability or distance an example."""
