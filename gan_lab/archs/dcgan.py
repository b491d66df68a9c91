"""The reference's CNN pair for 32, 48 and 64 pixels (Lin et al. 2021)."""

from collections import OrderedDict

from torch import nn

from gan_lab.archs.common import batch_norm, batch_norm_of_features, channels, norm_layer
from gan_lab.archs.convolutions import Conv2d, ConvTranspose2d

IMAGE_SIZES = (32, 48, 64)


def base_size(image_size: int) -> int:
    """m, the side of the smallest feature map: 4, 6 or 8."""
    if image_size not in IMAGE_SIZES:
        raise ValueError(f"the CNN has shapes for {IMAGE_SIZES} pixels, not {image_size}")
    return image_size // 8


class Generator(nn.Sequential):
    """Latents `[B, latent_dim]` to images `[B, 3, image_size, image_size]` in (-1, 1).

    The first batch norm is of the linear layer's features, before they become maps: each position of a map
    has a mean and a variance of its own.
    """

    def __init__(self, image_size: int, latent_dim: int = 128, width: float = 1.0) -> None:
        m = base_size(image_size)
        c512, c256, c128, c64 = (channels(count, width) for count in (512, 256, 128, 64))
        self.latent_dim = latent_dim
        super().__init__(
            OrderedDict(
                linear=nn.Linear(latent_dim, c512 * m * m),
                bn0=batch_norm_of_features(c512 * m * m),
                relu0=nn.ReLU(inplace=True),
                reshape=nn.Unflatten(1, (c512, m, m)),
                deconv1=ConvTranspose2d(c512, c256, 4, stride=2, padding=1),
                bn1=batch_norm(c256),
                relu1=nn.ReLU(inplace=True),
                deconv2=ConvTranspose2d(c256, c128, 4, stride=2, padding=1),
                bn2=batch_norm(c128),
                relu2=nn.ReLU(inplace=True),
                deconv3=ConvTranspose2d(c128, c64, 4, stride=2, padding=1),
                bn3=batch_norm(c64),
                relu3=nn.ReLU(inplace=True),
                deconv4=ConvTranspose2d(c64, 3, 3, stride=1, padding=1),
                tanh=nn.Tanh(),
            )
        )


class Discriminator(nn.Sequential):
    """Images `[B, 3, image_size, image_size]` to scores `[B]`.

    The reference has no norm of activations; `norm` puts one of `NORM_LAYERS` after each convolution but the
    first, which sees the images (Radford et al. 2016, section 3; Kurach et al. 2019's public code).
    """

    def __init__(self, image_size: int, width: float = 1.0, norm: str = "none") -> None:
        m = base_size(image_size)
        table = [(64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 4, 2), (256, 3, 1), (256, 4, 2), (512, 3, 1)]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        c_in = 3
        for index, (count, kernel_size, stride) in enumerate(table):
            c_out = channels(count, width)
            layers[f"conv{index}"] = Conv2d(c_in, c_out, kernel_size, stride, padding=1)
            if norm != "none" and index > 0:
                layers[f"norm{index}"] = norm_layer(norm, c_out)
            layers[f"lrelu{index}"] = nn.LeakyReLU(0.1, inplace=True)
            c_in = c_out
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(c_in * m * m, 1)
        layers["scores"] = nn.Flatten(0)  # [B, 1] to [B]
        super().__init__(layers)
