"""torch-geometric: cells between rounds of messages, layers over neighbours and over sets."""

import torch

from benchmarks.clients.work import Work, training

NODES, EDGES, WIDTH = 500, 2500, 32
NODES_OF_GRAPH = 20


def graph() -> tuple[torch.Tensor, torch.Tensor]:
    """Features `[nodes, WIDTH]`, and edges `[2, EDGES]` sorted by target, as an LSTM wants them."""
    edges = torch.randint(0, NODES, (2, EDGES))
    return torch.randn(NODES, WIDTH), edges[:, edges[1].argsort()]


def batch() -> torch.Tensor:
    """The graph of each node."""
    return torch.arange(NODES) // NODES_OF_GRAPH


def gated_graph_conv() -> Work:
    from torch_geometric.nn import GatedGraphConv

    return training(GatedGraphConv(WIDTH, 4), *graph())


def sage_conv_lstm() -> Work:
    from torch_geometric.nn import SAGEConv

    return training(SAGEConv(WIDTH, WIDTH, aggr="lstm"), *graph())


def attentive_fp() -> Work:
    from torch_geometric.nn import AttentiveFP

    model = AttentiveFP(WIDTH, WIDTH, 1, edge_dim=8, num_layers=3, num_timesteps=3)
    return training(model, *graph(), torch.randn(EDGES, 8), batch())


def set2set() -> Work:
    from torch_geometric.nn import Set2Set

    return training(Set2Set(WIDTH, processing_steps=5), graph()[0], batch())
