"""Descriptors that are computed, not learned: what person re-identification was before 2014."""

import numpy as np

__all__ = ["colour_histogram"]


def colour_histogram(images, stripes=6, bins=8):
    """Hue, saturation and value histograms of horizontal stripes (after Gray and Tao, 2008) -> (N, stripes * 3 *
    bins) float32.

    images: uint8 (N, 3, H, W). Each histogram is square-rooted (so that the Euclidean distance is Hellinger's) and
    the whole is scaled to length 1. Pixels count for more towards the middle column, where the person is.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 (N, 3, H, W), got {images.dtype} {images.shape}")
    count, _, height, width = images.shape
    middle = np.exp(-0.5 * ((np.arange(width) + 0.5 - width / 2) / (width / 8)) ** 2)
    stripe = np.arange(height) * stripes // height
    out = np.empty((count, stripes, 3, bins), np.float32)
    for i, image in enumerate(images):
        for c, channel in enumerate(_hsv(image)):
            cell = stripe[:, None] * bins + np.minimum((channel * bins).astype(int), bins - 1)
            counts = np.bincount(cell.ravel(), np.broadcast_to(middle, cell.shape).ravel(), stripes * bins)
            out[i, :, c] = counts.reshape(stripes, bins)
    out = np.sqrt(out.reshape(count, -1))
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def _hsv(image):
    """Hue, saturation and value in [0, 1] of one uint8 picture (3, H, W)."""
    r, g, b = image.astype(np.float32) / 255
    high, low = np.maximum(np.maximum(r, g), b), np.minimum(np.minimum(r, g), b)
    spread = np.where(high > low, high - low, 1)
    hue = np.where(high == r, (g - b) / spread, np.where(high == g, 2 + (b - r) / spread, 4 + (r - g) / spread))
    return (hue / 6) % 1, (high - low) / np.where(high > 0, high, 1), high
