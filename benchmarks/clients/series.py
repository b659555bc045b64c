"""darts, pytorch-forecasting, pypots, resemblyzer: forecasts, gaps filled, voices."""

import contextlib
import logging
import os
import warnings

import numpy as np
import torch

from benchmarks.clients.work import Work, training


@contextlib.contextmanager
def quietly():
    """Without what packages print, log and warn of while they train."""
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                yield
    finally:
        logging.disable(logging.NOTSET)


def waves(*shape: int) -> np.ndarray:
    """Sines with noise, float32, over the next to last dimension."""
    steps = np.arange(shape[-2])[:, None] / 5
    noise = np.random.default_rng(0).normal(size=shape, scale=0.1)
    return (np.sin(steps) + noise).astype("float32")


def darts(name: str, **options) -> Work:
    """One epoch of training, which builds the model anew, and a forecast."""
    with quietly():
        from darts import TimeSeries, models

    series = TimeSeries.from_values(waves(300, 1))
    trainer = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False,
               "enable_checkpointing": False, "enable_model_summary": False}  # fmt: skip
    forecaster = getattr(models, name)(
        input_chunk_length=48, n_epochs=1, random_state=0, pl_trainer_kwargs=trainer, **options
    )

    def run():
        with quietly():
            forecaster.reset_model()
            forecaster.fit(series)
            return forecaster.predict(12, random_state=0).values()

    return Work(run, lambda: forecaster.model)


def darts_rnn() -> Work:
    return darts("RNNModel", model="LSTM", hidden_dim=64, training_length=60)


def darts_block_rnn() -> Work:
    return darts("BlockRNNModel", model="GRU", hidden_dim=64, output_chunk_length=12)


def darts_tft() -> Work:
    return darts("TFTModel", hidden_size=32, output_chunk_length=12, add_relative_index=True)


def forecasting_tft() -> Work:
    """The temporal fusion transformer of pytorch-forecasting's second interface."""
    with quietly():
        from pytorch_forecasting.models.temporal_fusion_transformer._tft_v2 import TFT

        sizes = {"max_encoder_length": 60, "max_prediction_length": 20, "encoder_cont": 8,
                 "encoder_cat": 0, "decoder_cont": 4, "decoder_cat": 0}  # fmt: skip
        model = TFT(torch.nn.MSELoss(), hidden_size=64, dropout=0.0, metadata=sizes)
    data = {"encoder_cont": torch.randn(32, 60, 8), "decoder_cont": torch.randn(32, 20, 4)}

    class Prediction(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = model

        def forward(self, data):
            return self.network(data)["prediction"]

    return training(Prediction(), data)


def pypots(package: str, name: str, **options) -> Work:
    """One epoch over 64 series of which a fifth is missing, and the result for them."""
    with quietly():
        module = __import__(f"pypots.{package}", fromlist=[name])
        model = getattr(module, name)(
            n_steps=48, n_features=10, rnn_hidden_size=64, epochs=1, batch_size=32, device="cpu",
            verbose=False, **options,
        )  # fmt: skip
    values = waves(64, 48, 10)
    values[np.random.default_rng(1).random(values.shape) < 0.2] = np.nan
    data = {"X": values}
    if package == "classification":
        data["y"] = np.arange(64) % 2

    def run():
        with quietly():
            model.fit(data)
            return next(iter(model.predict(data).values()))

    return Work(run, lambda: model.model)


def brits() -> Work:
    return pypots("imputation", "BRITS")


def grud() -> Work:
    return pypots("classification", "GRUD", n_classes=2)


def voice_encoder() -> Work:
    """The embedding of five seconds, with the weights that the package holds."""
    with quietly():
        from resemblyzer import VoiceEncoder

    encoder = VoiceEncoder("cpu", verbose=False)
    voice = waves(5 * 16000, 1)[:, 0] * 0.1
    return Work(lambda: encoder.embed_utterance(voice), lambda: encoder)
