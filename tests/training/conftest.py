"""A toy run: a real small tokenizer, sixteen-pixel noise, everything else as in a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule

from imtok.configs.compose import compose_config
from imtok.losses.total import WeightedLosses
from imtok.tokenizers.tokenizer import Tokenizer
from imtok.training.callbacks.checkpoint import Checkpoint
from imtok.training.checkpoint import Saved, read, restore
from imtok.training.csv_logger import CSVLogger
from imtok.training.factory import build_trainer
from imtok.training.init_from import freeze_parts
from imtok.training.module import TokenizerTraining
from imtok.training.run import run as train
from imtok.training.settings import TrainerSettings

CNN = {"channels": 32, "channel_multipliers": [1, 1], "blocks_per_level": 1, "z_channels": 8, "attention_levels": []}
TINY = ["debug=tiny", "evaluate_after=false", "trainer.threads=1", "callbacks=[validation,checkpoint]"]
OPTIMIZER = {"name": "adam", "lr": 1e-3, "betas": [0.5, 0.9]}


class ToyData(LightningDataModule):
    """Sample s is noise seeded by s, so any start reads the same samples."""

    def __init__(self, *, batch_size: int = 2, bad: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.batch_size, self.bad = batch_size, bad
        self.begin_at(0)

    def begin_at(self, start_sample: int, *, num_batches: int = 0, max_val_images: int | None = None) -> None:
        self.numbers = range(start_sample, start_sample + num_batches * self.batch_size)
        self.max_val_images = max_val_images

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        samples = [self._sample(n) for n in self.numbers]
        return torch.utils.data.DataLoader(samples, batch_size=self.batch_size, collate_fn=self._collate)

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        return self.val_loader(self.max_val_images)

    def val_loader(self, max_images: int | None = None) -> torch.utils.data.DataLoader:
        samples = [self._sample(10_000 + n) for n in range(min(max_images or 4, 4))]
        own = torch.Generator().manual_seed(0)  # as ImageData: else each pass would draw from the training's
        return torch.utils.data.DataLoader(samples, batch_size=2, collate_fn=self._collate, generator=own)

    def prepare_batch(self, batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
        return batch | {"image": batch["image"].to(device)}

    def _sample(self, number: int) -> dict[str, Any]:
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(number)) * 2 - 1
        return {"image": image * float("nan") if number in self.bad else image, "key": str(number)}

    def _collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        return {"image": torch.stack([s["image"] for s in samples]), "key": [s["key"] for s in samples], "skipped": []}


def tokenizer_node(**quantizer: Any) -> dict[str, Any]:
    return {
        "image_size": 16,
        "encoder": {"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 8, **CNN},
        "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16, **quantizer},
        "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN},
    }


def loss_node() -> dict[str, Any]:
    def term(key: str) -> dict[str, Any]:
        return {"_target_": "imtok.losses.quantizer.QuantizerTerm", "key": key}

    return {
        "l1": {"weight": 1.0, "term": {"_target_": "imtok.losses.pixel.L1"}},
        "codebook": {"weight": 1.0, "term": term("codebook")},
        "commit": {"weight": 0.25, "term": term("commit")},
    }


ADVERSARY = "imtok.losses.adversarial.adversary.Adversary"


def make_adversary(**how: Any) -> torch.nn.Module:
    from imtok.common.build import build

    patchgan = {"_target_": "imtok.losses.adversarial.patchgan.PatchGAN", "ndf": 8, "n_layers": 1}
    return build({"_target_": ADVERSARY, "discriminator": patchgan, **how}, key="adversary")


class Run:
    """One fit in `folder`; what a test wants to look at is in `training` and `trainer`."""

    def __init__(
        self,
        folder: Path,
        *,
        adversary: dict[str, Any] | None = None,
        data: ToyData | None = None,
        ckpt: Path | None = None,
        callbacks: tuple = (),
        freeze: tuple[str, ...] = (),
        quantizer: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        losses: tuple[str, ...] = ("l1", "codebook", "commit"),
        **settings: Any,
    ) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        given = {"max_updates": 4, "log_every": 1, "accelerator": "cpu", "precision": "fp32", "channels_last": False}
        self.settings = TrainerSettings(**(given | settings))
        node = tokenizer_node(**(quantizer or {}))
        self.tokenizer = Tokenizer(**node)
        freeze_parts(self.tokenizer, freeze)
        self.data = data or ToyData()
        terms = {name: term for name, term in loss_node().items() if name in losses}
        config = {"tokenizer": node, "loss": terms, "adversary": None}
        self.training = TokenizerTraining(
            tokenizer=self.tokenizer,
            losses=WeightedLosses.from_config(terms, self.tokenizer),
            adversary=make_adversary(**adversary) if adversary is not None else None,
            optimizer=optimizer or OPTIMIZER,
            settings=self.settings,
            run_folder=folder,
            config=config,
        )
        logger = CSVLogger(folder=str(folder))
        self.checkpoint = Checkpoint()
        self.trainer = build_trainer(
            self.settings, loggers=[logger], callbacks=[*callbacks, self.checkpoint], folder=folder
        )
        if ckpt is not None:
            saved = Saved(ckpt, read(ckpt))
            logger.cut_back(saved.state["update"])
            self.training.resume = lambda module: restore(module, saved=saved, config=config)
        self.folder = folder

    def fit(self) -> "Run":
        self.trainer.fit(self.training, datamodule=self.data)
        return self

    @property
    def rows(self) -> list[str]:
        return (self.folder / "metrics.csv").read_text().splitlines()


@pytest.fixture
def make_run(tmp_path: Path):
    def make(name: str = "run", **how: Any) -> Run:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        return Run(folder, **how)

    return make


@pytest.fixture
def toy_data() -> type[ToyData]:
    return ToyData


@pytest.fixture
def make_node():
    return tokenizer_node


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run in this process; its folder."""
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))

    def begin(*words: str, folder: str = "run", code: int = 0) -> Path:
        given = [*TINY, *words]
        assert train(compose_config("train", given), overrides=given, folder=tmp_path / folder) == code
        return tmp_path / folder

    return begin


@pytest.fixture(scope="module")
def one_process_group(tmp_path_factory: pytest.TempPathFactory):
    """torch.distributed of this process alone: it holds every shard."""
    store = tmp_path_factory.mktemp("store") / "file"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
