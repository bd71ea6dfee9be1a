"""The networks: context encoder, predictor, target encoder, and the model that connects them."""
