"""fastai with its defaults, as its vision tutorial trains pretrained networks.

    --way fine_tune      learn.fine_tune(epochs): one epoch frozen, then one cycle
    --way one_cycle      learn.unfreeze(); learn.fit_one_cycle(epochs)

https://docs.fast.ai/tutorial.vision.html and https://docs.fast.ai/vision.learner.html: for
segmentation `SegmentationDataLoaders`, batches of 8, `unet_learner`, `fine_tune`; for
classification `ImageDataLoaders` with its batches of 64, `vision_learner`; `item_tfms=Resize(...)`
and `batch_tfms=aug_transforms()` with the defaults of each. Loss, optimizer, learning rates,
schedule and head are the library's defaults.

What has to be given: the split (a data block with `FuncSplitter`; the factory methods draw one),
the initial weights (timm's `pretrained_cfg_overlay`, from a file instead of the hub), their mean
and std, and for `unet_learner`, which takes no name of timm, where to cut the network: stem and
stages one by one, because by default they are one piece, with a single skip connection.
"""

import time
import warnings

warnings.simplefilter("ignore")

import timm
import torch
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    FuncSplitter,
    ImageBlock,
    ImageDataLoaders,
    MaskBlock,
    Normalize,
    Resize,
    SegmentationDataLoaders,
    aug_transforms,
    nn,
    set_seed,
    unet_learner,
    vision_learner,
)
from quality_common import (
    NETWORK,
    arguments,
    classes_of,
    num_cores,
    read_mask,
    read_rows,
    report,
    write_mask,
    write_probabilities,
)

SEGMENTATION_BATCH = 8


class Clock(Callback):
    """Duration of each epoch with its validation, and whether the body was frozen."""

    def before_epoch(self):
        self.started = time.time()

    def after_epoch(self):
        self.epochs.append((time.time() - self.started, self.learn.opt.frozen_idx > 0))

    def before_fit(self):
        self.epochs = getattr(self, "epochs", [])


def segmentation(given, split):
    target_of = {row["path"]: row["target"] for rows in split.values() for row in rows}
    val = {row["path"] for row in split["val"]}
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=["background", "foreground"])),
        get_x=lambda path: given.data / path,
        get_y=lambda path: read_mask(given.data / target_of[path]),
        splitter=FuncSplitter(lambda path: path in val),
        item_tfms=Resize(given.size),
        batch_tfms=transforms(),
    )
    paths = [row["path"] for name in ("train", "val") for row in split[name]]
    dls = SegmentationDataLoaders.from_dblock(
        block, paths, path=given.out, bs=SEGMENTATION_BATCH, num_workers=num_cores()
    )

    def lite0(pretrained):
        return timm.create_model(
            NETWORK,
            pretrained=pretrained,
            pretrained_cfg_overlay={"file": str(given.weights)},
        )

    def stages(network):
        return nn.Sequential(network.conv_stem, network.bn1, *network.blocks)

    return unet_learner(dls, lite0, cut=stages)


def classification(given, split):
    class_of = {row["path"]: row["target"] for rows in split.values() for row in rows}
    val = {row["path"] for row in split["val"]}
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=classes_of(split))),
        get_x=lambda path: given.data / path,
        get_y=lambda path: class_of[path],
        splitter=FuncSplitter(lambda path: path in val),
        item_tfms=Resize(given.size),
        batch_tfms=transforms(),
    )
    paths = [row["path"] for name in ("train", "val") for row in split[name]]
    dls = ImageDataLoaders.from_dblock(block, paths, path=given.out, num_workers=num_cores())
    overlay = {"file": str(given.weights)}
    return vision_learner(dls, NETWORK, pretrained_cfg_overlay=overlay)


def transforms():
    config = timm.get_pretrained_cfg(NETWORK)
    return [*aug_transforms(), Normalize.from_stats(config.mean, config.std)]


def main():
    given = arguments()
    torch.set_num_threads(num_cores())
    set_seed(given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    split = read_rows(given)
    make = segmentation if given.task == "segmentation" else classification
    learn = make(given, split)
    clock = Clock()
    learn.add_cb(clock)
    if given.way == "fine_tune":
        learn.fine_tune(given.epochs)
    else:
        learn.unfreeze()
        learn.fit_one_cycle(given.epochs)
    fit_ended = time.time()
    # before predicting, which calls the clock too
    epoch_s = [seconds for seconds, frozen in clock.epochs if not frozen]

    unseen = [*split["val"], *split["test"]]
    paths = [row["path"] for row in unseen]
    outputs, _ = learn.get_preds(dl=learn.dls.test_dl(paths, num_workers=num_cores()))
    if given.task == "segmentation":
        for row, probabilities in zip(unseen, outputs, strict=True):
            write_mask(given, row, probabilities[1])
    else:
        write_probabilities(given, unseen, list(learn.dls.vocab), outputs)
    report(fit_ended, epoch_s)


if __name__ == "__main__":
    main()
