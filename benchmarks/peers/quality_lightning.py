"""Plain Lightning loops as the documentation of the libraries shows them, in float32.

    --way smp_fpn          segmentation-models-pytorch, examples/binary_segmentation_intro.ipynb
    --way smp              the same with a U-Net
    --way smp_augmented    a U-Net with the augmentation of the CamVid example
    --way tuned            timm, every layer is trained
    --way frozen           timm, features of the frozen network, a linear classifier is trained

smp: https://github.com/qubvel-org/segmentation_models.pytorch, examples/
binary_segmentation_intro.ipynb and camvid_segmentation_multiclass.ipynb: Dice loss, Adam 2e-4,
cosine down to 1e-5 over all steps, batches of 16, images of 256 px, validation after each epoch
with the IoU of its `get_stats`, weights of the last epoch. The example has FPN. Pixels are divided
by 255, as in examples/binary_segmentation_intro_cpu.py: mean and std of the encoder are meant for
[0, 1].

Lightning: https://lightning.ai/docs/pytorch/stable/advanced/transfer_learning.html (`frozen` is
its ImagenetTransferLearning) and the LightningModule, transforms, batches of 8 and Adam 1e-3 of
https://github.com/Lightning-AI/pytorch-lightning, examples/pytorch/domain_templates/
computer_vision_fine_tuning.py. That example unfreezes the network after 5 and 10 epochs, later
than most trainings here end; `tuned` trains it from the start.

The initial weights come from a file instead of the hub; loaders have a worker for each core.
"""

import os
import time
import warnings

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import numpy as np
import pytorch_lightning as pl
import timm
import torch
from PIL import Image
from quality_common import (
    NETWORK,
    arguments,
    classes_of,
    num_cores,
    read_image,
    read_mask,
    read_rows,
    report,
    write_mask,
    write_probabilities,
)
from torch import nn, optim
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

SMP_BATCH, TRANSFER_BATCH = 16, 8


# Segmentation


class Pairs(Dataset):
    def __init__(self, rows, given, augmentation=None):
        self.rows, self.given, self.augmentation = rows, given, augmentation

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row, size = self.rows[index], self.given.size
        image = read_image(self.given.data / row["path"], size)
        mask = Image.fromarray(read_mask(self.given.data / row["target"]))
        mask = np.asarray(mask.resize((size, size), Image.NEAREST))
        if self.augmentation is not None:
            sample = self.augmentation(image=image, mask=mask)
            image, mask = sample["image"], sample["mask"]
        return image.transpose(2, 0, 1).astype("float32") / 255, mask[None].astype("float32")


def camvid_augmentation(size):
    import albumentations as A

    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.ShiftScaleRotate(
                scale_limit=0.5, rotate_limit=0, shift_limit=0.1, p=1, border_mode=0
            ),
            A.PadIfNeeded(min_height=size, min_width=size),
            A.RandomCrop(height=size, width=size),
            A.GaussNoise(p=0.2),
            A.Perspective(p=0.5),
            A.OneOf(
                [A.CLAHE(p=1), A.RandomBrightnessContrast(p=1), A.RandomGamma(p=1)],
                p=0.9,
            ),
            A.OneOf(
                [A.Sharpen(p=1), A.Blur(blur_limit=3, p=1), A.MotionBlur(blur_limit=3, p=1)],
                p=0.9,
            ),
            A.OneOf([A.RandomBrightnessContrast(p=1), A.HueSaturationValue(p=1)], p=0.9),
        ]
    )


def smp_module(given, steps):
    import segmentation_models_pytorch as smp

    name = f"tu-{NETWORK}"

    class PetModel(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = smp.create_model(
                "FPN" if given.way == "smp_fpn" else "Unet",
                encoder_name=name,
                encoder_weights=None,
                in_channels=3,
                classes=1,
            )
            load_encoder(self.model.encoder.model, given.weights)
            params = smp.encoders.get_preprocessing_params(name)
            self.register_buffer("std", torch.tensor(params["std"]).view(1, 3, 1, 1))
            self.register_buffer("mean", torch.tensor(params["mean"]).view(1, 3, 1, 1))
            self.loss_fn = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)
            self.outputs = {"train": [], "valid": []}

        def forward(self, image):
            return self.model((image - self.mean) / self.std)

        def shared_step(self, batch, stage):
            image, mask = batch
            logits = self.forward(image)
            loss = self.loss_fn(logits, mask)
            pred_mask = (logits.sigmoid() > 0.5).float()
            tp, fp, fn, tn = smp.metrics.get_stats(pred_mask.long(), mask.long(), mode="binary")
            output = {"loss": loss, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
            self.outputs[stage].append({**output, "loss": loss.detach()})
            return output

        def shared_epoch_end(self, stage):
            outputs = self.outputs[stage]
            counts = [torch.cat([x[key] for x in outputs]) for key in ("tp", "fp", "fn", "tn")]
            per_image = smp.metrics.iou_score(*counts, reduction="micro-imagewise")
            dataset = smp.metrics.iou_score(*counts, reduction="micro")
            self.log_dict(
                {f"{stage}_per_image_iou": per_image, f"{stage}_dataset_iou": dataset},
                prog_bar=True,
            )
            outputs.clear()

        def training_step(self, batch, batch_idx):
            return self.shared_step(batch, "train")

        def on_train_epoch_end(self):
            self.shared_epoch_end("train")

        def validation_step(self, batch, batch_idx):
            return self.shared_step(batch, "valid")

        def on_validation_epoch_end(self):
            self.shared_epoch_end("valid")

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-4)
            scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-5)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
            }

    return PetModel()


def load_encoder(encoder, weights):
    """All tensors of the encoder; the file also has those of the classifier."""
    from safetensors.torch import load_file

    missing, _ = encoder.load_state_dict(load_file(weights), strict=False)
    if missing:
        raise SystemExit(f"error: the weights lack {len(missing)} tensors ({missing[0]})")


# Classification


class Pictures(Dataset):
    def __init__(self, rows, given, classes, transform):
        self.rows, self.given, self.classes = rows, given, classes
        self.transform = transform

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        image = Image.open(self.given.data / row["path"]).convert("RGB")
        return self.transform(image), self.classes.index(row["target"])


class TransferLearningModel(pl.LightningModule):
    def __init__(self, given, classes):
        super().__init__()
        self.frozen = given.way == "frozen"
        self.feature_extractor = timm.create_model(
            NETWORK,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(given.weights)},
            num_classes=0,
        )
        self.classifier = nn.Linear(self.feature_extractor.num_features, len(classes))

    def forward(self, x):
        if self.frozen:
            self.feature_extractor.eval()
            with torch.no_grad():
                representations = self.feature_extractor(x)
        else:
            representations = self.feature_extractor(x)
        return self.classifier(representations)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        parameters = self.classifier.parameters() if self.frozen else self.parameters()
        return optim.Adam(parameters, lr=1e-3)


# Both


class Clock(pl.Callback):
    """Duration of each epoch, from the first step to the end of its validation."""

    def __init__(self):
        self.epoch_s, self.started = [], 0.0

    def on_train_epoch_start(self, trainer, pl_module):
        self.started = time.time()

    def on_train_epoch_end(self, trainer, pl_module):  # after the validation
        self.epoch_s.append(time.time() - self.started)


def loader(data, batch, *, train):
    return DataLoader(data, batch_size=batch, shuffle=train, num_workers=num_cores())


def main():
    given = arguments()
    warnings.simplefilter("ignore")
    torch.set_num_threads(num_cores())
    pl.seed_everything(given.seed)
    split = read_rows(given)
    unseen = [*split["val"], *split["test"]]
    if given.task == "segmentation":
        augmentation = camvid_augmentation(given.size) if given.way == "smp_augmented" else None
        batch = SMP_BATCH
        train = Pairs(split["train"], given, augmentation)
        val, predicted = Pairs(split["val"], given), Pairs(unseen, given)
        train_dataloader = loader(train, batch, train=True)
        model = smp_module(given, given.epochs * len(train_dataloader))
    else:
        classes, batch = classes_of(split), TRANSFER_BATCH
        config = timm.get_pretrained_cfg(NETWORK)
        resize = transforms.Resize((given.size, given.size))
        last = [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
        flipped = transforms.Compose([resize, transforms.RandomHorizontalFlip(), *last])
        plain = transforms.Compose([resize, *last])
        train = Pictures(split["train"], given, classes, flipped)
        val, predicted = (Pictures(rows, given, classes, plain) for rows in (split["val"], unseen))
        train_dataloader = loader(train, batch, train=True)
        model = TransferLearningModel(given, classes)
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=given.epochs,
        accelerator="cpu",
        log_every_n_steps=1,
        callbacks=[clock],
        default_root_dir=given.out,
    )
    trainer.fit(
        model,
        train_dataloaders=train_dataloader,
        val_dataloaders=loader(val, batch, train=False),
    )
    fit_ended = time.time()

    model.eval()
    outputs = []
    with torch.inference_mode():
        for images, _ in loader(predicted, batch, train=False):
            logits = model(images)
            outputs += list(
                logits[:, 0].sigmoid() if given.task == "segmentation" else logits.softmax(1)
            )
    if given.task == "segmentation":
        for row, probability in zip(unseen, outputs, strict=True):
            write_mask(given, row, probability)
    else:
        write_probabilities(given, unseen, classes, outputs)
    report(fit_ended, clock.epoch_s)


if __name__ == "__main__":
    main()
