"""The head of BRefine in float64 NumPy, from the paper's text; no code is shared with jaxseg but RoIAlign's."""

import numpy as np


def conv(x, parameters, dilation=1):
    """ReLU of a convolution of (N, h, w, C) with stride 1, as large as its input."""
    kernel = np.asarray(parameters["kernel"], np.float64)
    size, (_, height, width, _) = kernel.shape[0], x.shape
    pad = (size - 1) // 2 * dilation
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.asarray(parameters["bias"], np.float64)
    for i in range(size):
        for j in range(size):
            y, z = i * dilation, j * dilation
            out = out + x[:, y : y + height, z : z + width] @ kernel[i, j]
    return np.maximum(out, 0.0)


def bilinear(x):
    """Twice as large: new cells lie a quarter of a cell beside the old ones; at the edge the last one is repeated."""
    for axis in (1, 2):
        x = np.moveaxis(x, axis, 0)
        before, after = np.concatenate([x[:1], x[:-1]]), np.concatenate([x[1:], x[-1:]])
        x = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], 1)
        x = np.moveaxis(x.reshape(-1, *x.shape[2:]), 0, axis)
    return x


def deconv(x, parameters):
    kernel = np.asarray(parameters["kernel"], np.float64)
    n, h, w, _ = x.shape
    fine = np.zeros((n, 2 * h, 2 * w, kernel.shape[-1]))
    for i in range(2):
        for j in range(2):
            fine[:, i::2, j::2] = x @ kernel[i, j]
    return np.maximum(fine + np.asarray(parameters["bias"], np.float64), 0.0)


def residual_aware(x, parameters, dilations, residual):
    z = conv(x, parameters["squeeze"])
    y = sum(conv(z, parameters[f"dilated{d}"], d) for d in dilations)
    return conv(y + z if residual else y, parameters["expand"])


def head(parameters, pooled, fine, *, ram, upsample="bilinear", fusion="sum", trunk=1):
    """(logits (N, S, S, K), main line before the stages) of pooled features and finer ones, one for each stage.

    `ram`: (dilations, residual) or None.
    """
    main = pooled
    for index in range(trunk):
        main = conv(main, parameters[f"conv{index}"])
    features = main
    for index, source in enumerate(fine):
        stage = parameters[f"stage{index}"]
        if index and upsample == "deconv":
            main = deconv(main, parameters[f"deconv{index - 1}"])
        elif index:
            main = bilinear(main)
        more = conv(source, stage["conv_fine"])
        if fusion == "sum":
            main = main + more
        else:
            main = conv(np.concatenate([main, more], -1), stage["conv_fusion"])
        if ram is not None:
            main = residual_aware(main, stage["ram"], *ram)
    predictor = parameters["predictor"]
    return main @ np.asarray(predictor["kernel"], np.float64) + np.asarray(
        predictor["bias"]
    ), features
