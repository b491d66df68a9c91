"""One update of each network of the paper's CNN under BSSN, from what is known of its public code.

Nothing of this project is used: plain tensors and PyTorch's elementary functions. The facts, of the public
code of Lin et al. 2021 (TensorFlow 1.14):

- σ is the mean of the norms of the kernel's two reshapings, each by one power iteration from a stored u that
  no pass changes, with a gradient through all of it; the weight is s·W/σ;
- u moves by one iteration after each update of D, on the weights after it;
- hinge losses; G's update takes the latents of D's last one;
- Adam adds ε before the bias correction;
- G's first batch norm is of features; its running means follow every pass, with a decay of 0.9.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

STRIDES = (1, 2, 1, 2, 1, 2, 1)
EPSILON, DECAY, SLOPE = 1e-5, 0.9, 0.1  # of batch norm, twice; of the leaky ReLU


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def iterate(matrix: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(u moved by one power iteration, the singular value that it makes), of `[rows, columns]`."""
    v = unit(u @ matrix)
    moved = unit(matrix @ v)
    return moved, moved @ matrix @ v


def reshapings(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[c_out, c_in·kh·kw]` and `[c_in, c_out·kh·kw]`."""
    return weight.flatten(1), weight.transpose(0, 1).flatten(1)


@dataclass
class Adam:
    """TensorFlow 1's."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float = 1e-8
    t: int = 0
    m: dict[str, Tensor] = field(default_factory=dict)
    v: dict[str, Tensor] = field(default_factory=dict)

    def step(self, variables: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
        self.t += 1
        rate = self.lr * (1 - self.beta2**self.t) ** 0.5 / (1 - self.beta1**self.t)
        for name, g in gradients.items():
            self.m[name] = self.beta1 * self.m.get(name, 0 * g) + (1 - self.beta1) * g
            self.v[name] = self.beta2 * self.v.get(name, 0 * g) + (1 - self.beta2) * g * g
            step = rate * self.m[name] / (self.v[name].sqrt() + self.epsilon)
            variables[name] = (variables[name].detach() - step).requires_grad_()


@dataclass
class Reference:
    """Variables by name: D's `conv0.weight` to `linear.bias`, G's `linear.weight` to `deconv4.bias`.

    `u` has (u_out, u_in) for each of D's layers, `means` the running means of G's batch norms.
    """

    d: dict[str, Tensor]
    g: dict[str, Tensor]
    u: dict[str, tuple[Tensor, Tensor]]
    means: dict[str, Tensor]
    scale: float
    d_adam: Adam
    g_adam: Adam
    sigmas: dict[str, float] = field(default_factory=dict)  # of D's layers in the last pass

    def effective(self, layer: str) -> Tensor:
        weight = self.d[f"{layer}.weight"]
        halves = [iterate(a, u)[1] for a, u in zip(reshapings(weight), self.u[layer], strict=True)]
        sigma = (halves[0] + halves[1]) / 2
        self.sigmas[layer] = sigma.item()
        return self.scale * weight / sigma

    def discriminate(self, x: Tensor) -> Tensor:
        for number, stride in enumerate(STRIDES):
            bias = self.d[f"conv{number}.bias"]
            x = F.conv2d(x, self.effective(f"conv{number}"), bias, stride, padding=1)
            x = torch.where(x > 0, x, SLOPE * x)
        return (x.flatten(1) @ self.effective("linear").T + self.d["linear.bias"])[:, 0]

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        mean = x.mean(axes)
        centred = x - mean.view(shape)
        variance = centred.square().mean(axes)
        self.means[name] = DECAY * self.means[name] + (1 - DECAY) * mean.detach()
        gain, bias = self.g[f"{name}.weight"], self.g[f"{name}.bias"]
        return centred * (gain / (variance + EPSILON).sqrt()).view(shape) + bias.view(shape)

    def generate(self, z: Tensor) -> Tensor:
        x = z @ self.g["linear.weight"].T + self.g["linear.bias"]
        channels = len(self.g["deconv1.weight"])
        side = round((x.shape[1] / channels) ** 0.5)
        x = self.batch_norm(x, "bn0").clamp(min=0).view(-1, channels, side, side)
        for number in (1, 2, 3):
            weight, bias = self.g[f"deconv{number}.weight"], self.g[f"deconv{number}.bias"]
            x = F.conv_transpose2d(x, weight, bias, stride=2, padding=1)
            x = self.batch_norm(x, f"bn{number}").clamp(min=0)
        return F.conv_transpose2d(x, self.g["deconv4.weight"], self.g["deconv4.bias"], padding=1).tanh()

    def update_d(self, x: Tensor, z: Tensor) -> float:
        fake = self.generate(z).detach()
        real_scores, fake_scores = self.discriminate(x), self.discriminate(fake)
        loss = (1 - real_scores).clamp(min=0).mean() + (1 + fake_scores).clamp(min=0).mean()
        gradients = torch.autograd.grad(loss, list(self.d.values()))
        self.d_adam.step(self.d, dict(zip(self.d, gradients, strict=True)))
        for layer, (u_out, u_in) in self.u.items():
            a, b = reshapings(self.d[f"{layer}.weight"].detach())
            self.u[layer] = iterate(a, u_out)[0], iterate(b, u_in)[0]
        return loss.item()

    def update_g(self, z: Tensor) -> float:
        loss = -self.discriminate(self.generate(z)).mean()
        gradients = torch.autograd.grad(loss, list(self.g.values()))
        self.g_adam.step(self.g, dict(zip(self.g, gradients, strict=True)))
        return loss.item()
