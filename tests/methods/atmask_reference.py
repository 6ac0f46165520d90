"""The head of ATMask R-CNN in float64 NumPy, from the paper's text; no code is shared with jaxseg but RoIAlign's."""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.asarray(x, np.float64)))


def entropy(logits, wanted):
    """Eq. 4, the mean over the pixels of each RoI."""
    minus_log_p, minus_log_rest = np.logaddexp(0, -logits), np.logaddexp(0, logits)
    return (wanted * minus_log_p + (1 - wanted) * minus_log_rest).mean((-2, -1))


def conv(x, parameters, stride=1):
    """ReLU of a convolution of (N, h, w, C), padded by half the kernel."""
    kernel = np.asarray(parameters["kernel"], np.float64)
    size = kernel.shape[0]
    pad = (size - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (x.shape[1] - size) // stride + 1
    out = np.zeros((len(x), rows, rows, kernel.shape[-1]))
    for i in range(rows):
        for j in range(rows):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.einsum("nhwc,hwcd->nd", window, kernel)
    return np.maximum(out + np.asarray(parameters["bias"], np.float64), 0.0)


def maps(x, deconv, predictor):
    """Deconvolution 2x2 with ReLU, then all maps: (N, 2h, 2w, K)."""
    kernel = np.asarray(deconv["kernel"], np.float64)
    n, h, w, _ = x.shape
    fine = np.zeros((n, 2 * h, 2 * w, kernel.shape[-1]))
    for i in range(2):
        for j in range(2):
            fine[:, i::2, j::2] = x @ kernel[i, j]
    fine = np.maximum(fine + np.asarray(deconv["bias"], np.float64), 0.0)
    return fine @ np.asarray(predictor["kernel"], np.float64) + np.asarray(predictor["bias"])


def fused(x, other, parameters, how):
    if how == "sum":
        return x + conv(other, parameters)
    return conv(np.concatenate([x, other], -1), parameters)


def head(parameters, pooled, fine, *, p2t, t2p, fuse, convs, stride, trunk=1):
    """(logits of P, logits of T, F_P) of pooled features (N, 14, 14, C) and finer ones; logits are (N, 28, 28, K)."""
    branch = parameters["threshold"]
    probability = np.asarray(pooled, np.float64)
    for index in range(trunk):
        probability = features = conv(probability, parameters[f"conv{index}"])
    threshold = conv(np.asarray(fine, np.float64), branch["conv_reduce"], stride)
    if p2t:
        threshold = fused(threshold, probability, branch["conv_p2t"], fuse)
    for index in range(convs):
        threshold = conv(threshold, branch[f"conv{index}"])
    if t2p:
        fusion = parameters["fusion"]
        probability = fused(probability, threshold, fusion["conv_t2p"], fuse)
        probability = conv(probability, fusion["conv_final"])
    return (
        maps(probability, parameters["deconv"], parameters["predictor"]),
        maps(threshold, branch["deconv"], branch["predictor"]),
        features,
    )
