"""The usual loops of Lightning and accelerate, with fastcells' layers as with torch.nn's."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

import fastcells

STEPS, ROWS, UNITS = 7, 12, 8


class Model(nn.Module):
    """Two layers and a linear unit on the last output."""

    def __init__(self, library):
        super().__init__()
        self.layer = library.LSTM(3, UNITS, num_layers=2, batch_first=True)
        self.head = nn.Linear(UNITS, 1)

    def forward(self, series):
        return self.head(self.layer(series)[0][:, -1])


def data():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(ROWS, STEPS, 3), torch.randn(ROWS, 1)), 3)


def losses_by_hand():
    """Return the losses of torch.nn in a plain loop, two batches a step."""
    torch.manual_seed(0)
    model, losses = Model(nn), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for number, (series, wanted) in enumerate(data(), 1):
        loss = mse_loss(model(series), wanted)
        (loss / 2).backward()
        losses.append(loss.item())
        if number % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
    return losses


def test_lightning_trains_and_its_checkpoint_is_read(tmp_path):
    lightning = pytest.importorskip("lightning", reason="needs `pip install lightning`")
    losses = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model(fastcells)

        def training_step(self, batch, _):
            loss = mse_loss(self.model(batch[0]), batch[1])
            losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    loader = data()
    torch.manual_seed(0)
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, accumulate_grad_batches=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=True,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert losses == pytest.approx(losses_by_hand(), abs=1e-6)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = Module.load_from_checkpoint(tmp_path / "last.ckpt")
    series = torch.randn(2, STEPS, 3)
    assert torch.equal(again.model(series), module.model(series))


def test_accelerate_trains_and_its_weights_are_read(tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="needs `pip install accelerate`")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    model, losses = Model(fastcells), []
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, data())
    for series, wanted in loader:
        with accelerator.accumulate(model):
            loss = mse_loss(model(series), wanted)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == pytest.approx(losses_by_hand(), abs=1e-6)
    accelerator.save_model(model, tmp_path)
    safetensors = pytest.importorskip("safetensors.torch")
    again = Model(nn)
    again.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"))
    series = torch.randn(2, STEPS, 3)
    torch.testing.assert_close(again(series), accelerator.unwrap_model(model)(series))
