"""One e4e training step in ordinary PyTorch, ordered as the published loop orders it.

The discriminator's turn encodes the batch without gradients, the encoder's turn encodes it again.
"""

import random

import torch
import torch.nn.functional as F

from benchmarks.torch_reference import stylegan2


class Ranger(torch.optim.Optimizer):
    """RAdam on centralised gradients with Lookahead, tensor by tensor."""

    def __init__(self, parameters, lr, betas=(0.95, 0.999), eps=1e-5, every=6, alpha=0.5):
        super().__init__(parameters, {"lr": lr})
        self.betas, self.eps, self.every, self.alpha = betas, eps, every, alpha

    @torch.no_grad()
    def step(self):
        b1, b2 = self.betas
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state |= {"t": 0, "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                    state["slow"] = p.clone()
                gradient = p.grad
                if gradient.ndim > 1:
                    axes = tuple(range(1, gradient.ndim))
                    gradient = gradient - gradient.mean(axes, keepdim=True)
                state["t"] += 1
                t, m, v = state["t"], state["m"], state["v"]
                m.mul_(b1).add_(gradient, alpha=1 - b1)
                v.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
                longest = 2 / (1 - b2) - 1
                length = longest - 2 * t * b2**t / (1 - b2**t)
                size = group["lr"] / (1 - b1**t)
                if length > 5:
                    ratio = (length - 4) * (length - 2) * longest
                    ratio *= (1 - b2**t) / ((longest - 4) * (longest - 2) * length)
                    p.addcdiv_(m, v.sqrt().add_(self.eps), value=-size * ratio**0.5)
                else:
                    p.add_(m, alpha=-size)
                if t % self.every == 0:
                    p.copy_(state["slow"].add_(p - state["slow"], alpha=self.alpha))


class Pool:
    """Earlier codes for the discriminator: half of the queries swap with a stored one."""

    def __init__(self, size):
        self.size, self.codes = size, []

    def query(self, batch):
        answers = []
        for code in batch:
            if len(self.codes) < self.size:
                self.codes.append(code)
            elif random.random() < 0.5:
                place = random.randrange(self.size)
                code, self.codes[place] = self.codes[place], code
            answers.append(code)
        return torch.stack(answers)


class TrainStep:
    """Callable: images [B, 3, H, W] -> the terms of the loss.

    Args:
      encoder, discriminator: modules that are trained; all deltas are open.
      generator: parameters of `stylegan2.torch_parameters`, without gradients.
      config: the generator's.
      perceptual, identity: frozen modules; the latter reads face crops.
      options: weights and rates, as `training.objective.EncoderOptions` has them.
      compiled: the networks go through `torch.compile`.
    """

    def __init__(
        self,
        encoder,
        discriminator,
        generator,
        config,
        perceptual,
        identity,
        options,
        *,
        compiled=False,
    ):
        optimize = torch.compile if compiled else lambda function: function
        self.encoder, self.discriminator = optimize(encoder), discriminator
        self.generator, self.config, self.options = generator, config, options
        self.synthesize = optimize(
            lambda codes: stylegan2.synthesis(generator, config, codes, noise="random")
        )
        self.perceptual, self.identity = optimize(perceptual), optimize(identity)
        self.optimizer = Ranger(encoder.parameters(), lr=1e-4)
        self.discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-5)
        self.real_pool, self.fake_pool = Pool(options.w_pool_size), Pool(options.w_pool_size)
        self.steps = 0

    def __call__(self, images):
        terms = {"discriminator": self.train_discriminator(images)}
        for p in self.discriminator.parameters():
            p.requires_grad_(False)
        codes = self.codes(images)
        inverted = self.synthesize(codes)
        area = inverted.shape[-1] // images.shape[-1]
        inverted = F.avg_pool2d(inverted, area)
        terms |= {
            "l2": F.mse_loss(inverted, images),
            "perceptual": self.perceptual(inverted, images).mean(),
            "identity": self.identity_loss(inverted, images),
            "adversarial": F.softplus(-self.discriminator(codes)).mean(),
            "delta_norm": (codes[:, 1:] - codes[:, :1]).norm(dim=2).mean(0).sum(),
        }
        loss = sum(weight * terms[name] for name, weight in self.options.weights.items())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for p in self.discriminator.parameters():
            p.requires_grad_(True)
        self.steps += 1
        return {name: float(value.detach()) for name, value in terms.items()}

    def codes(self, images):
        return self.encoder(images) + self.generator["latent_avg"]

    def train_discriminator(self, images):
        with torch.no_grad():
            z = torch.randn(len(images), self.config.z_dim, device=images.device)
            real = stylegan2.mapping(self.generator, self.config, z)
            codes = self.codes(images)
            layers = torch.randint(codes.shape[1], (len(codes),), device=codes.device)
            fake = codes[torch.arange(len(codes), device=codes.device), layers]
            real, fake = self.real_pool.query(real), self.fake_pool.query(fake)
        loss = F.softplus(-self.discriminator(real)).mean()
        loss = loss + F.softplus(self.discriminator(fake)).mean()
        self.update_discriminator(loss)
        if self.steps % self.options.r1_every == 0:
            real = real.detach().requires_grad_()
            logits = self.discriminator(real).sum()
            (gradient,) = torch.autograd.grad(logits, real, create_graph=True)
            penalty = gradient.square().sum(1).mean()
            self.update_discriminator(0.5 * self.options.r1_gamma * self.options.r1_every * penalty)
        return loss

    def update_discriminator(self, loss):
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()

    def identity_loss(self, inverted, images):
        with torch.no_grad():
            target = self.identity(crop_face(images))
        return (1 - F.cosine_similarity(self.identity(crop_face(inverted)), target)).mean()


def crop_face(images):
    """[B, 3, 256, 256] -> [B, 3, 112, 112]."""
    return F.adaptive_avg_pool2d(images[:, :, 35:223, 32:220], (112, 112))
