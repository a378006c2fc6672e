"""Train and predict with Keras on TensorFlow, as its users write it. Prints one JSON line.

The classic U-Net is the reference code's; EfficientNet-B0 is Keras' own, AlexNet is written here as
torchvision has it. Data comes through tf.data, decoded in parallel and prefetched.
"""

import argparse
import csv
import json
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow.keras import Model, Sequential, layers


def double_conv(x, filters):
    for _ in range(2):
        x = layers.Conv2D(filters, 3, activation="relu", padding="same")(x)
    return x


def unet(size, base):
    image = layers.Input((size, size, 3))
    x, skips = image, []
    for level in range(4):
        x = double_conv(x, base * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = double_conv(x, base * 16)
    for level in reversed(range(4)):
        x = layers.Conv2DTranspose(base * 2**level, 2, strides=2, padding="same")(x)
        x = double_conv(layers.concatenate([x, skips[level]]), base * 2**level)
    return Model(image, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(x))


def alexnet(size, classes):
    def conv(filters, kernel, stride=1):
        return layers.Conv2D(filters, kernel, strides=stride, padding="same", activation="relu")

    return Sequential(
        [
            layers.Input((size, size, 3)),
            conv(64, 11, 4),
            layers.MaxPooling2D(3, 2),
            conv(192, 5),
            layers.MaxPooling2D(3, 2),
            conv(384, 3),
            conv(256, 3),
            conv(256, 3),
            layers.MaxPooling2D(3, 2),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(4096, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(4096, activation="relu"),
            layers.Dense(classes, dtype="float32", activation="softmax"),
        ]
    )


def efficientnet_b0(size, classes):
    body = tf.keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    return Sequential([body, layers.Dense(classes, dtype="float32", activation="softmax")])


def read(path, channels):
    data = tf.io.read_file(path)
    return tf.io.decode_image(data, channels=channels, expand_animations=False)


def batches(rows, given, *, train, classes=None):
    """A dataset of (image, target) batches from rows of (path, target)."""
    shape = (given.size, given.size)
    images = [str(given.data / path) for path, _ in rows]
    if given.model == "unet":
        targets = [str(given.data / target) for _, target in rows]
    else:
        targets = [classes.index(target) for _, target in rows]

    def load(image, target):
        pixels = tf.image.resize(read(image, 3), shape, method="area")
        pixels = pixels if given.model == "efficientnet_b0" else pixels / 255.0
        if given.model != "unet":
            return pixels, target
        mask = tf.image.resize(read(target, 1), shape, method="nearest")
        return pixels, tf.cast(mask > 127, tf.float32)

    data = tf.data.Dataset.from_tensor_slices((images, targets))
    if train and not given.cache:
        data = data.shuffle(len(rows), seed=given.seed)
    data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    if given.cache:
        data = data.cache()
        data = data.shuffle(len(rows), seed=given.seed) if train else data
    return data.batch(given.batch, drop_remainder=train).prefetch(tf.data.AUTOTUNE)


class Clock(tf.keras.callbacks.Callback):
    """Time of each training step and epoch, validation left out."""

    def __init__(self):
        super().__init__()
        self.steps, self.last = [], 0.0
        self.epochs, self.began = [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.last = self.began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(time.perf_counter() - self.began)

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now


def dice(model, data):
    scores = []
    for images, masks in data:
        found = model.predict_on_batch(images)[..., 0] >= 0.5
        for mine, truth in zip(found, masks.numpy()[..., 0] > 0.5, strict=True):
            both = np.logical_and(mine, truth).sum()
            scores.append((2 * both + 1e-7) / (mine.sum() + truth.sum() + 1e-7))
    return float(np.mean(scores))


def predict_files(model, given):
    """Masks of a folder of images, at the size of each file, written as PNG; images per second."""
    paths = sorted(path for path in given.predict.iterdir() if path.is_file())[: given.predictions]

    def load(path):
        image = read(path, 3)
        resized = tf.image.resize(image, (given.size, given.size), method="area")
        return resized / 255.0, tf.shape(image)[:2]

    def run(chosen):
        data = tf.data.Dataset.from_tensor_slices([str(path) for path in chosen])
        data = data.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(given.batch)
        done = 0
        for images, shapes in data.prefetch(tf.data.AUTOTUNE):
            for mask, shape in zip(model.predict_on_batch(images), shapes, strict=True):
                mask = tf.image.resize(mask, shape) >= 0.5
                png = tf.io.encode_png(tf.cast(mask, tf.uint8) * 255)
                tf.io.write_file(str(given.out / f"{chosen[done].stem}.png"), png)
                done += 1

    run(paths[: given.batch])
    started_s = time.perf_counter()
    run(paths)
    return len(paths) / (time.perf_counter() - started_s)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["unet", "alexnet", "efficientnet_b0"], default="unet")
    parser.add_argument("--data", type=Path, required=True, help="root of the data set")
    parser.add_argument("--splits", type=Path, required=True, help="split,path,target")
    parser.add_argument("--base", type=int, default=64, help="filters of the first level")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of an epoch; all")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of TensorFlow; one for each core")
    parser.add_argument("--policy", default="float32", help="or mixed_bfloat16")
    parser.add_argument("--cache", action="store_true", help="keep decoded images in memory")
    parser.add_argument("--times", action="store_true", help="end of the fit, and epochs")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--predict", type=Path, help="folder of images")
    parser.add_argument("--predictions", type=int, help="how many of them; all")
    parser.add_argument("--out", type=Path, help="folder of the masks")
    given = parser.parse_args()

    if given.threads:
        tf.config.threading.set_intra_op_parallelism_threads(given.threads)
        tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    tf.keras.utils.set_random_seed(given.seed)
    tf.keras.mixed_precision.set_global_policy(given.policy)
    with given.splits.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    split = {
        name: [(row["path"], row["target"]) for row in rows if row["split"] == name]
        for name in ("train", "val")
    }
    classes = sorted({row["target"] for row in rows})
    if given.model == "unet":
        model, loss = unet(given.size, given.base), "binary_crossentropy"
    else:
        make = {"alexnet": alexnet, "efficientnet_b0": efficientnet_b0}[given.model]
        model, loss = make(given.size, len(classes)), "sparse_categorical_crossentropy"
    model.compile(tf.keras.optimizers.Adam(given.lr), loss)

    clock, figures = Clock(), {}
    if given.epochs:
        train = batches(split["train"], given, train=True, classes=classes)
        train = train if given.steps is None else train.take(given.steps)
        model.fit(train, epochs=given.epochs, verbose=0, callbacks=[clock])
        if given.times:
            figures |= {"fit_ended": time.time(), "epoch_s": clock.epochs}
        counted = clock.steps[2:]
        figures["train_images_per_s"] = given.batch * len(counted) / sum(counted)
        figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if given.validate:
        figures["val_dice"] = dice(model, batches(split["val"], given, train=False))
    if given.predict:
        given.out.mkdir(parents=True, exist_ok=True)
        figures["predict_images_per_s"] = predict_files(model, given)
    print(json.dumps({**figures, "parameters": model.count_params()}))


if __name__ == "__main__":
    main()
