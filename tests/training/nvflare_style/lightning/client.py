import pytorch_lightning as pl
import torch
from model import LitNet
from torch.utils.data import DataLoader, TensorDataset

import nvflare.client.lightning as flare


def loader(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 16, generator=generator)
    return DataLoader(TensorDataset(x, x[:, :3].argmax(dim=1)), batch_size=16)


def main():
    model = LitNet()
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )

    flare.patch(trainer)

    while flare.is_running():
        input_model = flare.receive()
        print(f"[Current Round={input_model.current_round}, Site = {flare.get_site_name()}]")
        trainer.validate(model, loader(1))
        trainer.fit(model, loader(2), loader(1))


if __name__ == "__main__":
    main()
