# Written by `python -m satlib.tangle` from chapters/lstm.md: edit that.
# chapters/lstm.md: LSTM: a memory for the sentence
"""The LSTM cell by hand: a memory that gates open and close."""

import torch
from torch import nn


# chapters/lstm.md: The class
class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), with a forget gate.

    The same function as torch.nn.LSTMCell, with its parameters: rows of the weights
    are the input gate, forget gate, candidate and output gate, H of each.
    """

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def project(self, x, hidden):
        """Return the pre-activations: (B, I), (B, H) -> (B, 4H)."""
        return self.from_input(x) + self.from_hidden(hidden)

    def from_input(self, x):
        """Return the input's part of them: (B, I) -> (B, 4H)."""
        return nn.functional.linear(x, self.weight_ih, self.bias_ih)

    def from_hidden(self, hidden):
        """Return the hidden state's part of them: (B, H) -> (B, 4H)."""
        return nn.functional.linear(hidden, self.weight_hh, self.bias_hh)

    @staticmethod
    def gates(pre_activations):
        """Return input, forget, candidate, output: (B, 4H) -> four of (B, H)."""
        i, f, g, o = pre_activations.chunk(4, dim=-1)
        return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)

    @staticmethod
    def update(pre_activations, cell_state):
        """Return hidden and cell state: (B, 4H), (B, H) -> (B, H), (B, H)."""
        i, f, g, o = LSTMCell.gates(pre_activations)
        cell_state = f * cell_state + i * g
        return o * torch.tanh(cell_state), cell_state

    def forward(self, x, state):
        """Take a step: (B, I), ((B, H), (B, H)) -> hidden (B, H), cell state (B, H).

        Raises ValueError where a last dimension is not the one of the weights.
        """
        hidden, cell_state = state
        widths = x.shape[-1], hidden.shape[-1], cell_state.shape[-1]
        expected = self.input_size, self.hidden_size, self.hidden_size
        if widths != expected:
            raise ValueError(
                f"x, hidden, cell state have widths {widths}; this cell has {expected}"
            )
        return self.update(self.project(x, hidden), cell_state)
