"""sRGB <-> CIE Lab (D65, 2 degree observer) on batched tensors, on any device and in any float type.

Constants and formulas are those of scikit-image (``skimage.color.rgb2lab`` and ``lab2rgb``), so that
both agree to float tolerance: IEC 61966-2-1 for the sRGB transfer curve, CIE 15 for Lab.

L is in [0, 100]; a and b of sRGB colors are in about [-86.2, 98.3] and [-107.9, 94.5]. Half-precision
input is promoted: neither float16 nor bfloat16 can hold Lab to better than a visible step.
"""

import torch
from torch import Tensor

_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_EPSILON = 0.008856
_SLOPE = 7.787


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB images to Lab.

    Args:
        rgb: (..., 3, H, W), uint8 in [0, 255] or float in [0, 1].

    Returns:
        (..., 3, H, W), L, a, b unscaled; float64 for float64 input, else float32.
    """
    fx, fy, fz = _cube_roots(_linear(rgb), rows=(0, 1, 2))
    return torch.stack((116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)), dim=-3)


def rgb_to_lightness(rgb: Tensor) -> Tensor:
    """Return only L of ``rgb_to_lab``, (..., 1, H, W), at a third of its cost."""
    (fy,) = _cube_roots(_linear(rgb), rows=(1,))
    return (116 * fy - 16).unsqueeze(-3)


def lightness_to_gray(lightness: Tensor) -> Tensor:
    """Return the sRGB gray of that L: the value that R, G and B share, in [0, 1] for L in [0, 100]; any shape."""
    f = (at_least_float32(lightness) + 16) / 116
    return _encoded(_inverse_cube_root(f))


def rgb_to_ab(rgb: Tensor) -> Tensor:
    """Return only a and b of ``rgb_to_lab``, (..., 2, H, W). Subsample ``rgb`` first: it acts per pixel."""
    return rgb_to_lab(rgb)[..., 1:, :, :]


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert Lab images to sRGB, float in [0, 1]; colors outside sRGB are clipped.

    Args:
        lab: (..., 3, H, W), float, unscaled.

    Returns:
        (..., 3, H, W), float64 for float64 input, else float32.
    """
    lightness, a, b = at_least_float32(lab).unbind(-3)
    fy = (lightness + 16) / 116
    fx = fy + a / 500
    fz = (fy - b / 200).clamp_min(0)  # as scikit-image: a negative Z is no color
    xyz = torch.stack([_inverse_cube_root(f) * white for f, white in zip((fx, fy, fz), _WHITE, strict=True)], -3)
    inverse = torch.linalg.inv(torch.tensor(_XYZ_FROM_RGB, dtype=torch.float64))
    linear = torch.einsum("ij,...jhw->...ihw", inverse.to(xyz), xyz)
    return _encoded(linear).clamp(0, 1)


def _linear(rgb: Tensor) -> Tensor:
    """Convert sRGB values to linear light (IEC 61966-2-1)."""
    if rgb.dtype == torch.uint8:  # 256 values: a table is exact and saves a power per sample
        table = _linear(torch.arange(256, dtype=torch.float64) / 255)
        # Indexing by table[rgb] would take eight times as long on a CPU.
        return table.to(rgb.device, torch.float32).index_select(0, rgb.int().flatten()).view(rgb.shape)
    rgb = at_least_float32(rgb)
    return torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def _encoded(linear: Tensor) -> Tensor:
    """Convert linear light to sRGB values (IEC 61966-2-1)."""
    gamma = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, gamma, linear * 12.92)


def _cube_roots(linear: Tensor, rows: tuple[int, ...]) -> list[Tensor]:
    """Return f(X / Xn), f(Y / Yn), f(Z / Zn) of CIE Lab, for the given rows of XYZ."""
    r, g, b = linear.unbind(-3)
    roots = []
    for row in rows:
        x, y, z = (weight / _WHITE[row] for weight in _XYZ_FROM_RGB[row])
        t = x * r + y * g + z * b
        roots.append(torch.where(t > _EPSILON, t.clamp_min(_EPSILON) ** (1 / 3), _SLOPE * t + 16 / 116))
    return roots


def _inverse_cube_root(f: Tensor) -> Tensor:
    return torch.where(f > 0.2068966, f**3, (f - 16 / 116) / _SLOPE)


def at_least_float32(values: Tensor) -> Tensor:
    """Return float64 unchanged, and anything else as float32."""
    return values if values.dtype == torch.float64 else values.float()
