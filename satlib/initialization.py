# Written by `python -m satlib.tangle` from chapters/initialization.md: edit that.
# chapters/initialization.md: Initialization: where training starts
"""The initial weights of the decoder: uniform within ±0.1, biases zero."""

from torch import nn


# chapters/initialization.md: The rule
def init_weights(module, bound=0.1):
    """Draw the weights of `module` from U(-bound, bound), set its biases to zero.

    For embeddings, linear layers and LSTM cells, ours and PyTorch's, and modules made
    of these. Works in place and returns the module. Raises ValueError for a weight that
    is no matrix, such as the scale of a normalisation layer, which must start at one.
    """
    for name, parameter in module.named_parameters():
        if name.split(".")[-1].startswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            nn.init.uniform_(parameter, -bound, bound)
        else:
            raise ValueError(
                f"init_weights takes embeddings, linear layers and LSTM cells; "
                f"{name} of {type(module).__name__} is {tuple(parameter.shape)}"
            )
    return module
