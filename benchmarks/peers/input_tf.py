"""Files to batches as tf.data does it, decoding each time or behind its cache in memory."""

import os
from typing import Any

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import tensorflow as tf
from input_timing import BATCH, DEGREES, IMAGE_PX, Pairs, arguments, pairs_in, report


def read(image_path: Any, mask_path: Any) -> Any:
    """Decode and resize: by area where it shrinks, as far as tf.image does that to bytes."""
    image = tf.io.decode_image(tf.io.read_file(image_path), 3, expand_animations=False)
    mask = tf.io.decode_image(tf.io.read_file(mask_path), 1, expand_animations=False)
    size = (IMAGE_PX, IMAGE_PX)
    image = tf.image.resize(image, size, method="area")
    mask = tf.image.resize(mask, size, method="nearest")
    return tf.cast(tf.round(image), tf.uint8), tf.cast(mask > 127, tf.uint8)


def augment(image: Any, mask: Any) -> Any:
    """Flip and turn both alike."""
    if tf.random.uniform(()) < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    angle = tf.random.uniform((), -DEGREES, DEGREES) * (3.14159265 / 180)
    cos, sin, middle = tf.cos(angle), tf.sin(angle), (IMAGE_PX - 1) / 2
    x0, y0 = middle - middle * cos + middle * sin, middle - middle * sin - middle * cos
    matrix = tf.stack([cos, -sin, x0, sin, cos, y0, 0.0, 0.0])[None]
    return _turned(image, matrix, "BILINEAR"), _turned(mask, matrix, "NEAREST")[..., 0]


def _turned(image: Any, matrix: Any, how: str) -> Any:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix,
        output_shape=(IMAGE_PX, IMAGE_PX),
        fill_value=0.0,
        interpolation=how,
    )[0]


def main() -> None:
    """Measure."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    given = arguments("decode", "memory")
    pairs = pairs_in(given.data)

    def batches(chosen: Pairs) -> Any:
        paths, masks = zip(*chosen, strict=True)
        data = tf.data.Dataset.from_tensor_slices((list(paths), list(masks)))
        if given.mode == "memory":  # what is cached is shuffled behind it
            data = data.map(read).cache().shuffle(len(chosen))
        else:
            data = data.shuffle(len(chosen)).map(read)
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        return data.map(augment).batch(BATCH).with_options(options)

    whole, few = batches(pairs), batches(pairs[:16])

    def epoch(chosen: Any) -> Any:
        for images, _ in chosen:
            yield int(images.shape[0])

    report(lambda: epoch(whole), warm_up=lambda: epoch(whole if given.mode == "memory" else few))


if __name__ == "__main__":
    main()
