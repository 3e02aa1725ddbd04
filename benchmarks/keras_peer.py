"""The thesis's DCGAN and drawing loop in Keras, as a peer; run in an environment of its own (see run.py).

Written from the layer table of the thesis: generator dense 4x4x256, nearest up-sampling and 3x3 convolutions
256-256-128-128 and 3; discriminator 3x3 convolutions 32-64-128 (stride 2) -256-512 (stride 1); batch norm with
momentum 0.8, dropout 0.25; Adam 1.5e-4, beta1 0.5. One thread. Reads commands on stdin, answers in JSON on stdout, so
that both sides of a comparison can take turns in one run:  ``step N`` times N training steps of batch 32 at 64 px,
``draw N FOLDER`` draws and saves N images one by one through matplotlib.
"""

import json
import os
import sys
import time

os.environ.update(OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")

import matplotlib as mpl

mpl.use("Agg")
import tensorflow as tf
from matplotlib import pyplot as plt
from tensorflow.keras import Input, Model, layers, optimizers

BATCH, SIZE, LATENT = 32, 64, 100


def generator() -> Model:
    x = inputs = Input((LATENT,))
    x = layers.Dense(4 * 4 * 256, activation="relu")(x)
    x = layers.Reshape((4, 4, 256))(x)
    for channels in (256, 256, 128, 128):
        x = layers.UpSampling2D(interpolation="nearest")(x)
        x = layers.Conv2D(channels, 3, padding="same")(x)
        x = layers.BatchNormalization(momentum=0.8)(x)
        x = layers.ReLU()(x)
    return Model(inputs, layers.Conv2D(3, 3, padding="same", activation="tanh")(x))


def discriminator() -> Model:
    x = inputs = Input((SIZE, SIZE, 3))
    for i, (channels, stride) in enumerate(zip((32, 64, 128, 256, 512), (2, 2, 2, 1, 1), strict=True)):
        x = layers.Conv2D(channels, 3, strides=stride, padding="same")(x)
        if i:
            x = layers.BatchNormalization(momentum=0.8)(x)
        x = layers.LeakyReLU(0.2)(x)
        x = layers.Dropout(0.25)(x)
    return Model(inputs, layers.Dense(1)(layers.Flatten()(x)))


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    draws, judges = generator(), discriminator()
    adam_g, adam_d = (optimizers.Adam(1.5e-4, beta_1=0.5) for _ in range(2))
    entropy = tf.keras.losses.BinaryCrossentropy(from_logits=True)
    real = tf.random.uniform((BATCH, SIZE, SIZE, 3), -1, 1)

    @tf.function
    def step() -> None:
        noise = tf.random.normal((BATCH, LATENT))
        with tf.GradientTape() as tape_g, tf.GradientTape() as tape_d:
            fake = draws(noise, training=True)
            on_real, on_fake = judges(real, training=True), judges(fake, training=True)
            loss_g = entropy(tf.ones_like(on_fake), on_fake)
            loss_d = entropy(tf.ones_like(on_real), on_real) + entropy(tf.zeros_like(on_fake), on_fake)
        adam_g.apply_gradients(
            zip(tape_g.gradient(loss_g, draws.trainable_variables), draws.trainable_variables, strict=True)
        )
        adam_d.apply_gradients(
            zip(tape_d.gradient(loss_d, judges.trainable_variables), judges.trainable_variables, strict=True)
        )

    def draw(count: int, folder: str) -> None:
        plt.close("all")
        for i in range(count):
            image = draws.predict(tf.random.normal((1, LATENT)), verbose=0)
            plt.imshow(image[0, :, :, 0] * 127.5 + 127.5)
            plt.axis("off")
            plt.savefig(f"{folder}/{i}.png")

    for _ in range(2):
        step()
    draw(1, os.environ.get("TMPDIR", "/tmp"))
    print(json.dumps({"tensorflow": tf.__version__}), flush=True)
    for line in sys.stdin:
        verb, count, *rest = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        if verb == "step":
            for _ in range(int(count)):
                step()
        else:
            draw(int(count), rest[0])
        used = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps(used), flush=True)


if __name__ == "__main__":
    main()
