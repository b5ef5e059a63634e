"""Per-sample gradients averaged over timesteps: the features of an image, before projection.

For image x_i, K timesteps t_k and noises eps_ik, the gradient over the parameters theta is

    g_i = (1/K) sum_k grad_theta f(eps_theta(x_ik, t_k)),
    x_ik = sqrt(abar_{t_k}) x_i + sqrt(1 - abar_{t_k}) eps_ik

(paper Section 3 and Table 1; f is one of `attribution.output_functions`). x_i may be another
picture at every timestep, x_ik, as along the path of a generated image (Journey TRAK). The mean
gradient is the gradient of the mean, so no engine here but the reference ever holds one gradient a
timestep:

`batched_backward`  one ordinary backward pass over the K noised copies of one image. Works for
                    every model, and needs no more memory than a training step on K images and its
                    own row.
`hooks`             one forward and backward pass over (images x timesteps); hooks on the modules
                    turn each layer's input and output gradient into one weight gradient an image.
`vmap`              vmap(grad(functional_call)) a timestep, as the paper's authors did: the
                    reference for tests and benchmarks.

With `normalise`, each pair's gradient is first divided by its L2 norm,

    g_i = (1/K) sum_k h_ik / |h_ik|,   h_ik = grad_theta f(eps_theta(x_ik, t_k)),

so that no timestep outweighs the others (DAS, Lin et al. 2025; ReTrac). That mean is no gradient of
a mean: the engines are run with one timestep at a time, a pair being an image of its own. That
costs 2 to 2.5 times as much with `hooks` (160 thousand parameters, one core).

Inside a pass the pairs lie timestep by timestep, [timesteps, images, ...]. Then [timesteps *
images, channels, ...] is, without a copy, a batch of `timesteps` inputs of `images * channels`
channels, and the weight gradients of all images are ONE weight gradient of a convolution with
`images` groups. On a CPU that costs 1.0 to 1.5 times the plain weight gradient of training, where
unfolding the inputs costs three to ten times as much.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attribution.errors import ConfigurationError, NumericalError
from attribution.output_functions import elbo_weights, output_function

ENGINES = ("auto", "batched_backward", "hooks", "vmap")
PRECISIONS = ("fp32", "bf16")


class NonFiniteGradientError(NumericalError):
    """Some rows of a batch of gradients are not finite. `rows`: their positions in the batch."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(
            f"the gradients of rows {rows} of this batch are not finite: look for NaN or infinite "
            "values in those images and in the model's weights, or use precision fp32."
        )
        self.rows = rows


class ZeroGradientError(NumericalError):
    """Some gradients cannot be normalised. `rows`: the positions of their images in the batch."""

    def __init__(self, rows: list[int], timestep: int) -> None:
        super().__init__(
            f"the gradients of rows {rows} of this batch at timestep {timestep} are zero and have "
            "no direction: use another output function, or normalise: false."
        )
        self.rows = rows


class UnsupportedByHooksError(ConfigurationError):
    """The hook engine does not know the gradient of some module of this model."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the hooks engine cannot be used: {what}; use engine batched_backward.")


def choose_engine(parameters: int, device_type: str) -> str:
    """The engine of `auto`: `hooks` up to 2 million parameters (64 million on CUDA), else
    `batched_backward`.

    parameters: the number of columns of the result. device_type: `cpu`, `cuda`, ...

    On a CPU a small model is bound by the overhead of a pass, which `hooks` shares among many
    images; from about a million parameters both engines are within a few per cent of each other,
    and `batched_backward` needs less memory and knows every module (the ends, 160 thousand and 36
    million parameters, are those of benchmarks/gradients.py). Not measured on CUDA: K pairs a pass
    should leave a GPU idle at the sizes of the paper's networks, so the limit is set there by the
    memory of the rows alone.
    """
    limit = 64_000_000 if device_type == "cuda" else 2_000_000
    return "hooks" if parameters <= limit else "batched_backward"


def default_pairs_per_pass(height: int, width: int) -> int:
    """Pairs of one forward pass: 20,480 pixels' worth, no fewer than 40 pairs and no more than 320.

    On a CPU 8x8 images are fastest at 320 pairs or more, which hide the overhead of a pass; 16x16
    and larger ones at about 40, which keep the activations in the caches.
    """
    return max(40, min(320, 20_480 // (height * width)))


class GradientEngine:
    """Computes g_i for batches of images; see the module's text for the formula.

    model: a diffusers UNet2DModel or UNet2DConditionModel, called as
        `model(noisy, timesteps, **conditioning).sample`. It is in eval mode during a call (no
        dropout), and its training flags, requires_grad flags and .grad are as before after it.
    alphas_cumprod: [timesteps of the process], abar_t of the noise schedule.
    output_function: a name of `OUTPUT_FUNCTIONS`.
    engine: `auto` (see `choose_engine`) or one of the engines above. With `auto`, a model that the
        hook engine cannot do gets `batched_backward`, at the latest in the first call.
    precision: `fp32`, or `bf16` for autocast in the forward pass; the result is float32, and so are
        all sums over timesteps.
    parameters: of the trainable parameters (requires_grad), those whose name it accepts; all of
        them if None.
    pairs_per_pass: the most (image, timestep) pairs of one forward pass, which bounds the memory of
        activations (for `vmap`: images of a pass). Changes results by float rounding only.
        Default: `default_pairs_per_pass` of the images' size.
    elbo_weight: [timesteps of the process], only read by output function `elbo`; derived from
        alphas_cumprod if None.
    normalise: whether each (image, timestep) gradient is divided by its L2 norm before the mean.
        Needs the memory of one more row (`batched_backward`) or of up to `pairs_per_pass` more.

    Attributes: `name`, the engine in use; `parameter_names`, in the order of named_parameters(),
    which is the order of the columns; `dimension`, the number of columns.

    Errors: ConfigurationError for unknown names, no parameters, parameters that are not float32,
    and for engine `hooks` on a model that it cannot do (checked against an ordinary backward pass
    on the first call, because a weight used outside its module cannot be seen from hooks).
    """

    def __init__(
        self,
        model: nn.Module,
        alphas_cumprod: Tensor,
        output_function: str,
        engine: str = "auto",
        precision: str = "fp32",
        parameters: Callable[[str], bool] | None = None,
        pairs_per_pass: int | None = None,
        elbo_weight: Tensor | None = None,
        normalise: bool = False,
    ) -> None:
        _check_choice("engine", engine, ENGINES)
        _check_choice("precision", precision, PRECISIONS)
        if pairs_per_pass is not None and pairs_per_pass < 1:
            raise ConfigurationError(f"pairs_per_pass must be 1 or more, not {pairs_per_pass}.")
        self.model = model
        self.parameters = _selected_parameters(model, parameters)
        self.parameter_names = tuple(self.parameters)
        self.dimension = sum(parameter.numel() for parameter in self.parameters.values())
        self.device = next(iter(self.parameters.values())).device
        self.precision = precision
        self.pairs_per_pass = pairs_per_pass
        self.normalise = normalise
        self._noising = _Noising(alphas_cumprod, output_function, elbo_weight, self.device)
        self._may_fall_back = engine == "auto"
        if engine == "auto":
            engine = choose_engine(self.dimension, self.device.type)
        self.name = engine
        self._layers: list[_HookedLayer] = []
        self._hooks_are_checked = False
        if engine == "hooks":
            self._or_fall_back(self._find_layers)

    def __call__(
        self,
        images: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        conditioning: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The gradients [images, dimension] of a batch, float32, on the model's device.

        images: [images, channels, height, width], or [images, timesteps, channels, height, width]
        for another picture at each timestep. noise: [images, timesteps, channels, height, width],
        or [1, ...] to share one noise a timestep among all images. timesteps: int64 [timesteps],
        where one may stand several times, with several noises. conditioning: keyword arguments of
        the model, each [images, ...]; a row goes with all timesteps of its image.

        Errors: ConfigurationError if shapes do not fit; NonFiniteGradientError and, where
        gradients are normalised, ZeroGradientError (both NumericalErrors), with the positions of
        the rows.
        """
        batch = _Batch(images, noise, timesteps, conditioning or {})
        gradients = torch.empty(len(images), self.dimension, device=self.device)
        with _evaluating(self.model), torch.enable_grad():
            if self.name == "hooks" and not self._hooks_are_checked and len(images):
                self._or_fall_back(partial(self._check_hooks, batch))
            compute = {
                "batched_backward": self._batched_backward,
                "hooks": self._hooks,
                "vmap": self._vmap,
            }[self.name]
            if self.normalise:
                self._normalised(compute, batch, gradients)
            else:
                compute(batch, gradients)
        _check_finite(gradients)
        return gradients

    def residuals(
        self,
        images: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        conditioning: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """How far the predicted noise is off: (1/K) sum_k sqrt(mean (eps_theta(x_ik, t_k) -
        eps_ik)^2), the mean over the numbers of an image (DAS, Lin et al. 2025).

        Arguments and errors as of the gradients. Returns float32 [images]; forward passes only.
        """
        batch = _Batch(images, noise, timesteps, conditioning or {})
        total = torch.zeros(len(images), device=self.device)
        with _evaluating(self.model), torch.no_grad():
            for rows, chunks in self._passes(batch):
                for chunk in chunks:
                    noisy, drawn, steps, _ = self._noising(chunk)
                    predicted = self._predict(noisy, steps, chunk.repeated_conditioning())
                    error = (predicted.float() - drawn).flatten(1).square().mean(1).sqrt()
                    total[rows] += error.unflatten(0, (len(chunk.timesteps), -1)).sum(0)
        return total / len(batch.timesteps)

    def _normalised(
        self, compute: Callable[["_Batch", Tensor], None], batch: "_Batch", gradients: Tensor
    ) -> None:
        """The mean of unit gradients: one timestep at a time, each added up once it is divided."""
        gradients.zero_()
        # batched_backward goes image by image anyway; with it, one row of scratch is enough.
        most = 1 if self.name == "batched_backward" else self._pairs(batch)
        for start in range(0, len(batch.images), most):
            rows = slice(start, min(start + most, len(batch.images)))
            scratch = torch.empty_like(gradients[rows])
            for one in batch.single_timesteps(rows):
                compute(one, scratch)
                norms = _row_norms(scratch)  # [images]
                zero = torch.nonzero(norms == 0).flatten()
                if len(zero):
                    raise ZeroGradientError((zero + start).tolist(), int(one.timesteps[0]))
                scale = 1.0 / (norms * len(batch.timesteps))
                gradients[rows].addcmul_(scratch, scale.float()[:, None])

    # The three engines. Each fills the rows of an uninitialised result.

    def _batched_backward(self, batch: "_Batch", gradients: Tensor) -> None:
        """One backward pass an image and chunk of timesteps; autograd adds into the row itself."""
        trained = self.parameters.values()
        with _only_requiring_grad(self.model, trained), _contiguous_group_norms(self.model):
            for row in range(len(batch.images)):
                gradients[row].zero_()
                offset = 0
                for parameter in self.parameters.values():
                    piece = gradients[row, offset : offset + parameter.numel()]
                    parameter.grad = piece.view_as(parameter)  # autograd accumulates in place
                    offset += parameter.numel()
                for chunk in batch.chunks(slice(row, row + 1), self._pairs(batch)):
                    self._mean_output(chunk).backward()

    def _hooks(self, batch: "_Batch", gradients: Tensor) -> None:
        """Passes over several images at once; hooks add each layer's weight gradients to the
        rows."""
        with _only_requiring_grad(self.model, ()):
            for rows, chunks in self._passes(batch):
                for number, chunk in enumerate(chunks):
                    target = _Target(gradients[rows], adds=number > 0)
                    with _hooked(self._layers, target):
                        self._mean_output(chunk).backward()
                    target.clear_what_was_not_filled(self._layers)

    def _vmap(self, batch: "_Batch", gradients: Tensor) -> None:
        """One gradient an image and timestep, added up. Attention runs as plain matrix products,
        because the fused kernel's backward pass has no vmap rule."""
        theta = {name: parameter.detach() for name, parameter in self.parameters.items()}

        def output(theta: dict[str, Tensor], image: Tensor, noise: Tensor, *conditioning: Tensor):
            one = _Batch(  # a batch of one image and one timestep
                image[None],
                noise[None, None],
                timestep,
                {k: v[None] for k, v in zip(batch.conditioning, conditioning, strict=True)},
                len(batch.timesteps),
            )
            call = partial(torch.func.functional_call, self.model, theta)
            return self._mean_output(one, call)

        gradients.zero_()
        step, shared = self._pairs(batch), len(batch.noise) == 1
        in_dims = (None, 0, None if shared else 0, *(0 for _ in batch.conditioning))
        per_image = torch.func.vmap(torch.func.grad(output), in_dims)
        for start in range(0, len(batch.images), step):
            rows = slice(start, start + step)
            conditioning = [value[rows] for value in batch.conditioning.values()]
            for k in range(len(batch.timesteps)):
                timestep = batch.timesteps[k : k + 1]
                noise = batch.noise[0, k] if shared else batch.noise[rows, k]
                images = batch.images[rows] if batch.images.ndim == 4 else batch.images[rows, k]
                with sdpa_kernel(SDPBackend.MATH), _only_requiring_grad(self.model, ()):
                    result = per_image(theta, images, noise, *conditioning)
                offset = 0
                for gradient in result.values():  # each [images, *parameter]
                    piece = gradient.flatten(1)
                    gradients[rows, offset : offset + piece.shape[1]] += piece
                    offset += piece.shape[1]

    def _passes(self, batch: "_Batch") -> Iterator[tuple[slice, Iterator["_Batch"]]]:
        """Rows that go through the network together, and the chunks of their timesteps."""
        pairs = self._pairs(batch)
        step = max(1, pairs // len(batch.timesteps))  # images of a pass
        for start in range(0, len(batch.images), step):
            rows = slice(start, min(start + step, len(batch.images)))
            yield rows, batch.chunks(rows, pairs)

    def _pairs(self, batch: "_Batch") -> int:
        return self.pairs_per_pass or default_pairs_per_pass(*batch.images.shape[-2:])

    def _mean_output(self, chunk: "_Batch", call: Callable | None = None) -> Tensor:
        """sum over the images and timesteps of the chunk of f / K: its gradient is that of the
        g_i."""
        noisy, noise, timesteps, weight = self._noising(chunk)
        prediction = self._predict(noisy, timesteps, chunk.repeated_conditioning(), call)
        values = self._noising.function(prediction, noise, weight)  # [pairs]
        return values.sum() / chunk.total_timesteps

    def _predict(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        conditioning: dict[str, Tensor],
        call: Callable | None = None,
    ) -> Tensor:
        """The predicted noises [pairs, C, H, W], in the engine's precision."""
        autocast = torch.autocast(self.device.type, torch.bfloat16)
        with autocast if self.precision == "bf16" else nullcontext():
            if call is None:
                return self.model(noisy, timesteps, **conditioning).sample
            return call((noisy, timesteps), conditioning).sample

    # What the hook engine needs before it can be trusted.

    def _or_fall_back(self, attempt: Callable[[], None]) -> None:
        try:
            attempt()
        except UnsupportedByHooksError:
            if not self._may_fall_back:
                raise
            self.name = "batched_backward"

    def _find_layers(self) -> None:
        self._layers = _hooked_layers(self.model, self.parameters)

    def _check_hooks(self, batch: "_Batch") -> None:
        """Compares both engines on up to two images and timesteps, in float32, once a
        GradientEngine."""
        small = batch.beginning(images=2, timesteps=2)
        by_hooks = torch.empty(len(small.images), self.dimension, device=self.device)
        by_autograd = torch.empty_like(by_hooks)
        precision, self.precision = self.precision, "fp32"
        try:
            self._hooks(small, by_hooks)
            self._batched_backward(small, by_autograd)
        finally:
            self.precision = precision
        offset = 0
        if not by_autograd.isfinite().all():
            return  # nothing can be learnt from these images; the next call checks again
        floor = 1e-4 * by_autograd.norm()  # a gradient of nothing but rounding need not agree
        for name, parameter in self.parameters.items():
            columns = slice(offset, offset + parameter.numel())
            expected = by_autograd[:, columns]
            if (by_hooks[:, columns] - expected).norm() > 1e-2 * expected.norm() + floor:
                raise UnsupportedByHooksError(
                    f"the gradient of {name!r} differs from that of an ordinary backward pass, so "
                    "the parameter is also used outside its module"
                )
            offset += parameter.numel()
        self._hooks_are_checked = True


class _Batch:
    """Images with their noises, timesteps and conditioning, and the K that their mean is taken
    over."""

    def __init__(
        self,
        images: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        conditioning: dict[str, Tensor],
        total_timesteps: int | None = None,
    ) -> None:
        expected = (len(timesteps), *images.shape[-3:])
        if (
            images.ndim not in (4, 5)
            or (images.ndim == 5 and images.shape[1] != len(timesteps))
            or timesteps.ndim != 1
            or not len(timesteps)
            or len(noise) not in (1, len(images))
            or noise.shape[1:] != expected
        ):
            raise ConfigurationError(
                f"noise {list(noise.shape)} does not fit images {list(images.shape)} and timesteps "
                f"{list(timesteps.shape)}: it must be [1 or images, timesteps, channels, height, "
                "width], and images [images, (timesteps,) channels, height, width]."
            )
        for name, value in conditioning.items():
            if len(value) != len(images):
                raise ConfigurationError(
                    f"conditioning {name!r} has {len(value)} rows for {len(images)} images."
                )
        self.images, self.noise, self.timesteps = images, noise, timesteps
        self.conditioning = conditioning
        self.total_timesteps = total_timesteps or len(timesteps)

    def chunks(self, rows: slice, pairs_per_pass: int) -> Iterator["_Batch"]:
        """The rows, with all timesteps at once or in chunks of equal size that respect the
        limit."""
        images = self.images[rows]
        noise = self.noise if len(self.noise) == 1 else self.noise[rows]
        conditioning = {name: value[rows] for name, value in self.conditioning.items()}
        most = max(1, pairs_per_pass // len(images))
        passes = -(-len(self.timesteps) // most)
        for chosen in torch.arange(len(self.timesteps)).tensor_split(passes):
            k = slice(int(chosen[0]), int(chosen[-1]) + 1)
            pictures = images if images.ndim == 4 else images[:, k]
            yield _Batch(
                pictures, noise[:, k], self.timesteps[k], conditioning, self.total_timesteps
            )

    def single_timesteps(self, rows: slice) -> Iterator["_Batch"]:
        """The rows at each timestep, every one a batch of its own whose mean is over itself."""
        for chunk in self.chunks(rows, pairs_per_pass=1):
            chunk.total_timesteps = 1
            yield chunk

    def beginning(self, images: int, timesteps: int) -> "_Batch":
        """The first images and timesteps, as a batch of its own."""
        pictures = self.images[:images]
        return _Batch(
            pictures if pictures.ndim == 4 else pictures[:, :timesteps],
            self.noise[:images, :timesteps],
            self.timesteps[:timesteps],
            {name: value[:images] for name, value in self.conditioning.items()},
        )

    def repeated_conditioning(self) -> dict[str, Tensor]:
        """Each [pairs, ...]: the images' rows once a timestep."""
        k = len(self.timesteps)
        return {
            name: value.repeat(k, *(1 for _ in value.shape[1:]))
            for name, value in self.conditioning.items()
        }


class _Noising:
    """The noise schedule and the output function, which reads its weight from it."""

    def __init__(
        self, alphas_cumprod: Tensor, name: str, elbo_weight: Tensor | None, device: torch.device
    ) -> None:
        self.function = output_function(name)
        alphas_cumprod = alphas_cumprod.detach()
        self.signal = alphas_cumprod.double().sqrt().float().to(device)  # [process timesteps]
        self.noise = (1.0 - alphas_cumprod.double()).sqrt().float().to(device)
        self.weight: Tensor | None = None
        if self.function.needs_weight:
            if elbo_weight is None:
                elbo_weight = elbo_weights(_betas(alphas_cumprod))
            self.weight = elbo_weight.float().to(device)

    def __call__(self, chunk: _Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Noised inputs [pairs, C, H, W], their noises, timesteps [pairs] and ELBO weights [pairs].

        pairs = timesteps x images, timestep by timestep.
        """
        device = self.signal.device
        images, timesteps = chunk.images.to(device), chunk.timesteps.to(device)
        count = len(images)
        if images.ndim == 5:
            images = images.transpose(0, 1)  # [timesteps, images, C, H, W]
        signal = self.signal[timesteps].view(-1, 1, 1, 1, 1)  # [timesteps, 1, 1, 1, 1]
        scale = self.noise[timesteps].view(-1, 1, 1, 1, 1)
        noise = chunk.noise.to(device).transpose(0, 1)  # [timesteps, 1 or images, C, H, W]
        noisy = (signal * images + scale * noise).flatten(0, 1)  # [pairs, C, H, W]
        noise = noise.expand(-1, count, -1, -1, -1).flatten(0, 1)  # [pairs, C, H, W]
        repeated = timesteps.repeat_interleave(count)  # [pairs]
        return noisy, noise, repeated, None if self.weight is None else self.weight[repeated]


class _HookedLayer:
    """One module whose parameters' gradients are computed from its inputs and output gradients.

    columns: of each of its parameters (by its name within the module), the columns of the result.
    """

    def __init__(self, name: str, module: nn.Module, columns: dict[str, slice]) -> None:
        self.name, self.module, self.columns = name, module, columns
        self.rule = _RULES[type(module)]

    def on_forward(self, target: "_Target", module: nn.Module, args: tuple, output: Tensor) -> None:
        if self.name in target.called:
            raise UnsupportedByHooksError(f"module {self.name!r} is used more than once in a pass")
        if not args or not isinstance(output, Tensor) or len(args[0]) % len(target.rows):
            raise UnsupportedByHooksError(f"module {self.name!r} does not map pairs to pairs")
        target.called.add(self.name)
        if not output.requires_grad:
            output.requires_grad_()  # no gradient before this module: the graph begins here
        output.register_hook(partial(self.on_backward, target, args[0].detach()))

    def on_backward(self, target: "_Target", inputs: Tensor, gradient: Tensor) -> None:
        images = len(target.rows)
        result = self.rule(self.module, inputs.float(), gradient.float(), images, self.columns)
        for name, value in result.items():  # [images, *parameter]
            target.fill(self.columns[name], value.reshape(images, -1))
        target.filled.add(self.name)


class _Target:
    """Where the hooks of one pass put their gradients: rows [images, dimension], set or added
    to."""

    def __init__(self, rows: Tensor, adds: bool) -> None:
        self.rows, self.adds = rows, adds
        self.called: set[str] = set()  # names of the layers that the forward pass went through
        self.filled: set[str] = set()  # and of those that the backward pass reached

    def fill(self, columns: slice, value: Tensor) -> None:
        if self.adds:
            self.rows[:, columns] += value
        else:
            self.rows[:, columns] = value

    def clear_what_was_not_filled(self, layers: list[_HookedLayer]) -> None:
        """A layer that the output does not depend on has gradient zero."""
        for layer in layers:
            if layer.name not in self.filled and not self.adds:
                for columns in layer.columns.values():
                    self.rows[:, columns] = 0.0


@contextmanager
def _hooked(layers: list[_HookedLayer], target: _Target) -> Iterator[None]:
    handles = []
    try:
        for layer in layers:
            hook = partial(layer.on_forward, target)
            handles.append(layer.module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooked_layers(model: nn.Module, parameters: dict[str, nn.Parameter]) -> list[_HookedLayer]:
    """The modules that own the parameters. Errors: UnsupportedByHooksError, naming the module."""
    columns: dict[int, slice] = {}
    offset = 0
    for parameter in parameters.values():
        columns[id(parameter)] = slice(offset, offset + parameter.numel())
        offset += parameter.numel()
    owner: dict[int, str] = {}
    layers = []
    for name, module in model.named_modules():
        own = {
            local: columns[id(parameter)]
            for local, parameter in module.named_parameters(recurse=False)
            if id(parameter) in columns
        }
        if not own:
            continue
        reason = _unsupported(module)
        if reason:
            raise UnsupportedByHooksError(f"module {name!r} is {reason}")
        for local in own:
            previous = owner.setdefault(id(getattr(module, local)), name)
            if previous != name:
                raise UnsupportedByHooksError(
                    f"modules {previous!r} and {name!r} share a parameter"
                )
        layers.append(_HookedLayer(name, module, own))
    return layers


def _unsupported(module: nn.Module) -> str:
    """Why the hook engine has no rule for a module; an empty string if it has one."""
    if type(module) not in _RULES:
        return f"a {type(module).__name__}, for which it has no rule"
    if isinstance(module, nn.Conv2d):
        if module.groups != 1:
            return "a convolution with groups"
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return "a convolution whose padding is not a number of zeros"
    return ""


# One rule a module type: from inputs and output gradients of the pairs, [timesteps * images, ...],
# to each wanted parameter's gradient for each image, [images, *parameter], summed over timesteps.


def _conv2d_rule(
    module: nn.Conv2d, inputs: Tensor, gradient: Tensor, images: int, wanted: dict[str, slice]
) -> dict[str, Tensor]:
    result = {}
    if "bias" in wanted:
        result["bias"] = gradient.unflatten(0, (-1, images)).sum((0, 3, 4))  # [images, out]
    if "weight" in wanted:
        weight_gradient = _unfolded if inputs.is_cuda else _grouped
        result["weight"] = weight_gradient(module, inputs, gradient, images)
    return result


def _grouped(module: nn.Conv2d, inputs: Tensor, gradient: Tensor, images: int) -> Tensor:
    """[images, out, in, kernel, kernel] as the weight gradient of a convolution with `images`
    groups."""
    out_channels, in_channels, *kernel = module.weight.shape
    return torch.nn.grad.conv2d_weight(
        inputs.contiguous().view(-1, images * in_channels, *inputs.shape[2:]),  # [timesteps, ...]
        (images * out_channels, in_channels, *kernel),
        gradient.contiguous().view(-1, images * out_channels, *gradient.shape[2:]),
        module.stride,
        module.padding,
        module.dilation,
        groups=images,
    )


def _unfolded(module: nn.Conv2d, inputs: Tensor, gradient: Tensor, images: int) -> Tensor:
    """The same as one matrix product an image, of gradients and unfolded inputs, over (timestep,
    position).

    For CUDA, where convolutions of many groups are known to be slow; not measured there.
    """
    patches = F.unfold(
        inputs, module.kernel_size, module.dilation, module.padding, module.stride
    )  # [pairs, in * kernel * kernel, positions]
    patches = patches.unflatten(
        0, (-1, images)
    )  # [timesteps, images, in * kernel * kernel, positions]
    gradient = gradient.flatten(2).unflatten(0, (-1, images))  # [timesteps, images, out, positions]
    return torch.einsum("kiop,kiqp->ioq", gradient, patches)  # [images, out, in * kernel * kernel]


def _linear_rule(
    module: nn.Linear, inputs: Tensor, gradient: Tensor, images: int, wanted: dict[str, slice]
) -> dict[str, Tensor]:
    inputs = inputs.reshape(-1, images, inputs[0].numel() // module.in_features, module.in_features)
    gradient = gradient.reshape(*inputs.shape[:3], module.out_features)
    result = {}  # both are [timesteps, images, positions, in or out]
    if "bias" in wanted:
        result["bias"] = gradient.sum((0, 2))  # [images, out]
    if "weight" in wanted:
        result["weight"] = torch.einsum("kipo,kipq->ioq", gradient, inputs)  # [images, out, in]
    return result


def _group_norm_rule(
    module: nn.GroupNorm, inputs: Tensor, gradient: Tensor, images: int, wanted: dict[str, slice]
) -> dict[str, Tensor]:
    pairs, channels, positions = len(inputs), module.num_channels, inputs[0, 0].numel()
    if "weight" not in wanted:
        return {"bias": gradient.reshape(-1, images, channels, positions).sum((0, 3))}
    inputs, groups = inputs.contiguous(), module.num_groups
    _, mean, rstd = torch.native_group_norm(
        inputs, None, None, pairs, channels, positions, groups, module.eps
    )  # mean, rstd: [pairs, groups]
    timesteps = pairs // images
    _, weight, bias = torch.ops.aten.native_group_norm_backward(
        gradient.contiguous().view(timesteps, images * channels, positions),
        inputs.view(timesteps, images * channels, positions),
        mean.view(timesteps, images * groups),
        rstd.view(timesteps, images * groups),
        inputs.new_ones(images * channels),  # read for the gradient of the inputs only
        timesteps,
        images * channels,
        positions,
        images * groups,
        [False, True, True],
    )  # weight, bias: [images * channels]
    both = {"weight": weight, "bias": bias}
    return {name: both[name].view(images, channels) for name in wanted}


def _layer_norm_rule(
    module: nn.LayerNorm, inputs: Tensor, gradient: Tensor, images: int, wanted: dict[str, slice]
) -> dict[str, Tensor]:
    shape = (-1, images, inputs[0].numel() // module.weight.numel(), *module.normalized_shape)
    gradient = gradient.reshape(shape)  # [timesteps, images, positions, *normalised]
    result = {}
    if "bias" in wanted:
        result["bias"] = gradient.sum((0, 2))  # [images, *normalised]
    if "weight" in wanted:
        normalised = F.layer_norm(inputs, module.normalized_shape, eps=module.eps).reshape(shape)
        result["weight"] = (gradient * normalised).sum((0, 2))  # [images, *normalised]
    return result


_RULES: dict[type, Callable[..., dict[str, Tensor]]] = {
    nn.Conv2d: _conv2d_rule,
    nn.Linear: _linear_rule,
    nn.GroupNorm: _group_norm_rule,
    nn.LayerNorm: _layer_norm_rule,
}


def _selected_parameters(
    model: nn.Module, accepts: Callable[[str], bool] | None
) -> dict[str, nn.Parameter]:
    selected = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (accepts is None or accepts(name))
    }
    if not selected:
        raise ConfigurationError("no trainable parameter of the model was selected for gradients.")
    for name, parameter in selected.items():
        if parameter.dtype != torch.float32:
            raise ConfigurationError(
                f"parameter {name!r} is {parameter.dtype}, but gradients are taken of float32 "
                "parameters: convert them with .float(), and use precision bf16 for speed."
            )
    return selected


def _betas(alphas_cumprod: Tensor) -> Tensor:
    """beta_t = 1 - abar_t / abar_{t-1}, with abar_{-1} = 1."""
    alphas_cumprod = alphas_cumprod.double()
    previous = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return 1.0 - alphas_cumprod / previous  # [timesteps]


def _check_choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"unknown {what} {value!r}: choose one of {', '.join(known)}.")


def _check_finite(gradients: Tensor) -> None:
    suspects = torch.nonzero(~gradients.sum(1).isfinite()).flatten().tolist()
    rows = [row for row in suspects if not gradients[row].isfinite().all()]
    if rows:
        raise NonFiniteGradientError(rows)


def _row_norms(rows: Tensor) -> Tensor:
    """L2 norms of float32 rows [images, dimension]: float64 [images], however small the rows are.

    In float32 by pieces, which is twenty times faster than in float64 and keeps sums short; rows
    whose squares might vanish in float32 (below 1e-38) once more in float64.
    """
    pieces = [torch.linalg.vector_norm(piece, dim=1) for piece in rows.split(65_536, dim=1)]
    norms = torch.linalg.vector_norm(torch.stack(pieces, 1).double(), dim=1)
    small = torch.nonzero(norms < 1e-12).flatten()
    norms[small] = torch.linalg.vector_norm(rows[small], dim=1, dtype=torch.float64)
    return norms


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while; every module's own flag is put back."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _contiguous_group_norms(model: nn.Module) -> Iterator[None]:
    """Gives trained group norms contiguous inputs where the graph begins in them.

    Their backward pass crashes the process (torch 2.13, CPU) when the input is in channels-last
    layout, as it is after attention, and needs no gradient itself, as with all earlier parameters
    frozen.
    """

    def contiguous(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if args[0].requires_grad else (args[0].contiguous(), *args[1:])

    handles = [
        module.register_forward_pre_hook(contiguous)
        for module in model.modules()
        if isinstance(module, nn.GroupNorm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _only_requiring_grad(model: nn.Module, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Only `parameters` require gradients for a while; flags and .grad of all are put back."""
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    wanted = {id(parameter) for parameter in parameters}
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(id(parameter) in wanted)
        yield
    finally:
        for parameter, flag, gradient in before:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
