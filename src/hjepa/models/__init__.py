"""The networks: context encoder, predictor, target encoder, and what wires them."""
