"""PyTorch, optax and Keras as second opinions."""
