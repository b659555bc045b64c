"""The list of clients.

A tolerance is relative to the largest element of each result. float32 has 1.2e-7: sums of some
hundred terms in another order, over some ten steps, are within 1e-5. Training runs apply the
optimizer's rule to such gradients again and again, and Adam divides by their size: 1e-4.
"""

from benchmarks.clients import graphs, reinforcement, series
from benchmarks.clients.work import Client

ROUNDING, TRAINED = 1e-5, 1e-4

_BY_CONVERT = [
    ("torch-geometric", "GatedGraphConv", "training", graphs.gated_graph_conv),
    ("torch-geometric", "SAGEConv(aggr='lstm')", "training", graphs.sage_conv_lstm),
    ("torch-geometric", "AttentiveFP", "training", graphs.attentive_fp),
    ("torch-geometric", "Set2Set", "training", graphs.set2set),
    ("torchrl", "LSTMModule", "inference", reinforcement.lstm_module),
    ("torchrl", "GRUModule", "inference", reinforcement.gru_module),
    ("resemblyzer", "VoiceEncoder", "inference", series.voice_encoder),
    ("pytorch-forecasting", "TFT, version 2", "training", series.forecasting_tft),
    ("sb3-contrib", "RecurrentPPO.predict", "inference", reinforcement.recurrent_ppo_acting),
]
_BY_PATCH = [
    ("sb3-contrib", "RecurrentPPO.learn", reinforcement.recurrent_ppo),
    ("darts", "RNNModel (LSTM)", series.darts_rnn),
    ("darts", "BlockRNNModel (GRU)", series.darts_block_rnn),
    ("darts", "TFTModel", series.darts_tft),
    ("pypots", "BRITS", series.brits),
    ("pypots", "GRUD", series.grud),
]
CLIENTS = [
    *(Client(*case[:3], "convert", case[3], ROUNDING) for case in _BY_CONVERT),
    *(
        Client(package, name, "training", "patched_torch", build, TRAINED)
        for package, name, build in _BY_PATCH
    ),
]
