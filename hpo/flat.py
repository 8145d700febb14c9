"""The fast training of one network: flat buffers, forward and backward written out, nothing allocated in a step.

All weights and biases lie in one tensor, and so do their gradients, the optimizer's two moments and the best weights:
the optimizer is one call, a checkpoint one copy. Against the plain loop this saves autograd, the optimizer's dispatch,
the page faults of fresh activations and several passes over memory.

Where the work goes is the lane's affair (`hpo.lanes`): on a CUDA device `advance` puts a piece of an epoch into a
stream and never waits for it.

Axis legend: N samples, B batch, I inputs of a layer, O its outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from emulator.mlp import MLPSpec, build_mlp
from hpo import products
from hpo.engine import flat_refuses
from hpo.lanes import CudaLane, HostLane, lane_on
from hpo.optimizers import update_flat
from hpo.recipe import Recipe
from hpo.train import Piece, Progress, TrainingData, epoch_order, pieces_of_an_epoch

# What torch.nn.utils.clip_grad_norm_ adds to the norm.
_CLIP_EPSILON = 1e-6
# Rows of validation taken through the network at a time. On a CPU a layer of 256 is then 1 MiB and stays in the cache;
# on a GPU the widest layer is 64 MiB, enough to fill it and little beside others.
_CPU_CHUNK_ROWS = 1024
_CUDA_CHUNK_ELEMENTS = 1 << 24
# Validation of a small part is a graph for each piece; of a large one its few large kernels are launched as they are.
_MAX_VALIDATION_GRAPHS = 4

_aten = torch.ops.aten
# alpha and scale of selu (Klambauer et al. 2017, arXiv:1706.02515)
_SELU = (1.6732632423543772, 1.0507009873554805)


def _relu_backward(d_BO, y_BO):
    _aten.threshold_backward.grad_input(d_BO, y_BO, 0.0, grad_input=d_BO)


def _tanh_backward(d_BO, y_BO):
    _aten.tanh_backward.grad_input(d_BO, y_BO, grad_input=d_BO)


def _sigmoid_backward(d_BO, y_BO):
    _aten.sigmoid_backward.grad_input(d_BO, y_BO, grad_input=d_BO)


def _leaky_relu_backward(d_BO, y_BO):
    _aten.leaky_relu_backward.grad_input(d_BO, y_BO, 0.01, True, grad_input=d_BO)


def _elu_backward(d_BO, y_BO):
    _aten.elu_backward.grad_input(d_BO, 1.0, 1.0, 1.0, True, y_BO, grad_input=d_BO)


def _selu_backward(d_BO, y_BO):
    _aten.elu_backward.grad_input(d_BO, *_SELU, 1.0, True, y_BO, grad_input=d_BO)


def _softplus_(y_BO):
    torch.ops.aten.softplus.out(y_BO, out=y_BO)


def _softplus_backward(d_BO, y_BO):
    d_BO.mul_(1.0 - torch.exp(-y_BO))


# In place on a layer's output; in place on the gradient by it, given the output.
_ACTIVATIONS: dict[str, tuple[Callable | None, Callable | None]] = {
    "relu": (torch.relu_, _relu_backward),
    "leaky_relu": (functional.leaky_relu_, _leaky_relu_backward),
    "elu": (functional.elu_, _elu_backward),
    "selu": (torch.selu_, _selu_backward),
    "softplus": (_softplus_, _softplus_backward),
    "tanh": (torch.tanh_, _tanh_backward),
    "sigmoid": (torch.sigmoid_, _sigmoid_backward),
    "identity": (None, None),
}


@dataclass(frozen=True)
class _Layer:
    """Views of one layer in the flat buffers.

    Products have the orientation that they have in the plain loop: on a CPU the BLAS then gives the same bits. (The
    other one is up to five times faster in a layer from 8 to 256, but deep networks amplify a rounding until one of
    six stops at another epoch: not worth 2 % over the paper's space.)
    """

    weight_IO: torch.Tensor
    weight_OI: torch.Tensor
    bias_O: torch.Tensor
    gradient_OI: torch.Tensor
    bias_gradient_O: torch.Tensor
    wide: bool  # its products are those of hpo.products


@dataclass(frozen=True)
class _Batch:
    """Tensors that one step works on."""

    x_BI: torch.Tensor
    y_BO: torch.Tensor
    outputs: list[torch.Tensor | None]  # memory for those of each layer; None: of a wide one
    deltas: list[torch.Tensor]  # memory for the gradient by each layer's output; every second one shares its memory
    error: torch.Tensor  # of the outputs, flat
    squared_error: torch.Tensor  # its sum of squares goes here


class FlatTraining(Progress):
    """The training that `hpo.train.Training` does, faster; same order of samples, same results within rounding.

    Parameters
    ----------
    spec : MLPSpec
    recipe : Recipe
    data : TrainingData
        Its type (float32, float64) is that of the arithmetic.
    weights_seed, batch_seed : int
    precision : {'float32', 'tf32', 'bf16'}
        bf16: products and activations in bfloat16; weights, optimizer and losses as the data. (tf32 is a setting of
        the process, which `hpo.fleet` makes.)
    lane : HostLane or CudaLane, optional
        Its own for the time of the training; None: a new one.
    """

    def __init__(
        self,
        spec: MLPSpec,
        recipe: Recipe,
        data: TrainingData,
        *,
        weights_seed: int,
        batch_seed: int,
        precision: str = "float32",
        lane: HostLane | CudaLane | None = None,
    ):
        super().__init__(recipe, batch_seed=batch_seed)
        refused = flat_refuses(vars(spec) | vars(recipe))
        assert refused is None, f"{refused} is for the plain loop"
        self.spec, self.data = spec, data
        self._lane = lane or lane_on(data.device)
        self._pieces = pieces_of_an_epoch(spec, recipe, data)
        self._position = 0  # in them
        self._ended = False  # the epoch, but for its numbers
        self._order_state = self._order.get_state()
        self._low = torch.bfloat16 if precision == "bf16" else None
        self._activation, self._activation_backward = _ACTIVATIONS[spec.activation]
        self._output_activation, self._output_backward = _ACTIVATIONS[spec.output_activation]
        with self._lane.use(), torch.no_grad():
            self._make_weights(weights_seed)
            self._make_batches()

    # -- memory -------------------------------------------------------------------------------------------------

    def _make_weights(self, weights_seed: int) -> None:
        kind = {"dtype": self.data.dtype, "device": self.data.device}
        size = self.spec.num_parameters
        self._weights, self._best, self._gradient = (torch.empty(size, **kind) for _ in range(3))
        self._moments = torch.zeros(size, **kind), torch.zeros(size, **kind)
        self._updates = torch.zeros((), dtype=torch.float32, device=self.data.device)
        # what products read and write: the same memory, or copies of less precision
        self._factors, self._products = self._weights, self._gradient
        if self._low is not None:
            self._factors, self._products = (b.to(self._low) for b in (self._weights, self._gradient))
        self._layers = list(self._views())
        generator = torch.Generator().manual_seed(weights_seed)
        network = build_mlp(self.spec, generator, initialization=self.recipe.initialization)
        for (start, fan_in, fan_out), linear in zip(_blocks(self.spec), network[::2], strict=True):
            middle, stop = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
            self._weights[start:middle].copy_(linear.weight.flatten())
            self._weights[middle:stop].copy_(linear.bias)
        # batch losses times batch size, squared errors of the validation part, squared norm of the weights
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.data.device)
        self._squared_norm = torch.zeros((), **kind)

    def _views(self) -> Iterator[_Layer]:
        for start, fan_in, fan_out in _blocks(self.spec):
            middle, stop = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
            weight_OI = self._factors[start:middle].view(fan_out, fan_in)
            yield _Layer(
                weight_IO=weight_OI.t(),
                weight_OI=weight_OI,
                bias_O=self._factors[middle:stop],
                gradient_OI=self._products[start:middle].view(fan_out, fan_in),
                bias_gradient_O=self._products[middle:stop],
                wide=products.is_wide(weight_OI),
            )

    def _make_batches(self) -> None:
        data, widths, size = self.data, self.spec.widths[1:], self.recipe.batch_size
        longest = max(p.stop - p.start for p in self._pieces if p.train)
        rows, num_steps = min(size, longest), _ceil(longest, size)
        full = {"dtype": data.dtype, "device": data.device}
        kind = full | {"dtype": self._low or data.dtype}
        self._x_NI = torch.empty(longest, self.spec.num_inputs, **kind)
        self._y_NO = torch.empty(longest, widths[-1], **full)
        self._order_N = torch.empty(longest, dtype=torch.int64, device=data.device)
        self._squared_errors = torch.zeros(num_steps, **full)
        self._rates = torch.full((num_steps,), self.recipe.learning_rate, device=data.device)
        self._outputs = [
            None if layer.wide else torch.empty(rows * len(layer.bias_O), **kind) for layer in self._layers
        ]
        self._chunk_rows = (
            _CPU_CHUNK_ROWS if data.device.type == "cpu" else max(size, _CUDA_CHUNK_ELEMENTS // max(widths))
        )
        rows = max(rows, min(self._chunk_rows, data.num_validation))
        # while training the gradients of every second layer, while validating their outputs
        self._pair = [torch.empty(rows * max(widths), **kind) for _ in range(2)]
        self._error = torch.empty(rows * widths[-1], **full)
        self._batches: dict[int, list[_Batch]] = {}
        self._chunks: dict[int, list[torch.Tensor]] = {}

    def _batches_of(self, rows: int) -> list[_Batch]:
        """The steps of a training piece of so many rows."""
        if rows not in self._batches:
            size = self.recipe.batch_size
            self._batches[rows] = [
                self._batch(k, start, min(start + size, rows)) for k, start in enumerate(range(0, rows, size))
            ]
        return self._batches[rows]

    def _batch(self, step: int, start: int, stop: int) -> _Batch:
        rows, widths = stop - start, self.spec.widths[1:]
        error = self._error[: rows * widths[-1]]
        deltas = [_matrix(self._pair[k % 2], rows, w) for k, w in enumerate(widths)]
        if self._low is None:
            deltas[-1] = error.view(rows, widths[-1])
        x_BI = self._x_NI[start:stop]
        outputs = [b if b is None else _matrix(b, rows, w) for b, w in zip(self._outputs, widths, strict=True)]
        return _Batch(
            x_BI=x_BI,
            y_BO=self._y_NO[start:stop],
            outputs=outputs,
            deltas=deltas,
            error=error,
            squared_error=self._squared_errors[step],
        )

    # -- one epoch ----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        return self._lane.busy()

    def wait(self) -> None:
        self._lane.wait()

    def settle(self) -> None:
        self._lane.wait()
        if self._ended:
            with self._lane.use(), torch.no_grad():
                self._finish_epoch()

    @torch.no_grad()
    def advance(self) -> bool:
        if self.waiting:
            return False
        with self._lane.use():
            if not self._ended:
                self._do_next()
            return self._ended and not self.waiting and self._finish_epoch()

    def _do_next(self) -> None:
        if self._position == 0:
            self._begin_epoch()
            self._sums.zero_()
        self._do(self._pieces[self._position])
        self._position += 1
        self._ended = self._position == len(self._pieces)
        if self._ended:
            torch.dot(self._weights, self._weights, out=self._squared_norm)
            self._sums[2] = self._squared_norm
            self._lane.fetch(self._sums)
        self._lane.mark()

    def _begin_epoch(self) -> None:
        recipe, num_train = self.recipe, self.data.num_train
        self._order_state = self._order.get_state()
        self._epoch_order_N = self._lane.put(epoch_order(num_train, self._order))
        if recipe.rate_varies:
            num_steps = _ceil(num_train, recipe.batch_size)
            first = self.epoch * num_steps
            rates = [self._rate(first + k, num_steps) for k in range(num_steps)]
            self._epoch_rates = self._lane.put(torch.tensor(rates)) if self._lane.graphs else rates

    def _finish_epoch(self) -> bool:
        data = self.data
        train_sum, validation_sum, squared_norm = self._lane.fetched()
        self._ended, self._position = False, 0
        self._end_epoch(
            train_sum / data.num_train,
            validation_sum / (data.num_validation * data.num_direct),
            squared_norm,
        )
        return True

    def _keep_best(self) -> None:
        self._best.copy_(self._weights)

    def _do(self, piece: Piece) -> None:
        rows = piece.stop - piece.start
        if piece.train:
            batches, order_N = self._batches_of(rows), self._epoch_order_N[piece.start : piece.stop]
            rates = [self.recipe.learning_rate] * len(batches)
            varies = self.recipe.rate_varies
            if varies:
                first = piece.start // self.recipe.batch_size
                rates = self._epoch_rates[first : first + len(batches)]
            if self._lane.graphs:  # which find their order and rates where they found them before
                order_N = self._order_N[:rows].copy_(order_N)
                if varies:
                    self._rates[: len(batches)].copy_(rates)
                    rates = self._rates
            self._lane.run(("train", rows), lambda: self._train(batches, order_N, rates))
        elif len(self._pieces) <= _MAX_VALIDATION_GRAPHS and self.data.direct is None:
            self._lane.run(piece, lambda: self._validate(piece))
        else:
            self._validate(piece)

    def _train(self, batches: list[_Batch], order_N: torch.Tensor, rates) -> None:
        """One step for each batch, with its learning rate."""
        data, rows = self.data, len(order_N)
        if self._low is None:
            torch.index_select(data.x_train_NI, 0, order_N, out=self._x_NI[:rows])
        else:
            self._x_NI[:rows].copy_(data.x_train_NI.index_select(0, order_N))
        torch.index_select(data.y_train_NO, 0, order_N, out=self._y_NO[:rows])
        for batch, rate in zip(batches, rates, strict=False):
            if self._low is not None:
                self._factors.copy_(self._weights)
            self._backward(batch, self._forward(batch.x_BI, batch.outputs))
            if self._low is not None:
                self._gradient.copy_(self._products)
            self._update(rate)
        self._sums[0] += self._squared_errors[: len(batches)].sum(dtype=torch.float64) / data.num_outputs

    def _forward(self, x_BI: torch.Tensor, memory: list[torch.Tensor | None]) -> list[torch.Tensor]:
        """Outputs of each layer, in the memory given but for wide layers."""
        activation, outputs, last = self._activation, [], self._layers[-1]
        for layer, y_BO in zip(self._layers, memory, strict=True):
            hidden = layer is not last
            fused = layer.wide and hidden and self.spec.activation == "relu"
            if layer.wide:
                y_BO = products.outputs(x_BI, layer.weight_OI, layer.bias_O, relu=fused)
            else:
                torch.addmm(layer.bias_O, x_BI, layer.weight_IO, out=y_BO)
            if hidden and not fused and activation is not None:
                activation(y_BO)
            outputs.append(y_BO)
            x_BI = y_BO
        if self._output_activation is not None:
            self._output_activation(x_BI)
        return outputs

    def _backward(self, batch: _Batch, outputs: list[torch.Tensor]) -> None:
        deltas, layers = batch.deltas, self._layers
        y_BO, d_BO, error = outputs[-1], deltas[-1], batch.error
        torch.sub(y_BO, batch.y_BO, out=error.view_as(y_BO))
        torch.dot(error, error, out=batch.squared_error)
        self._turn_to_gradient(error)
        if self._low is not None:
            d_BO.copy_(error.view_as(y_BO))
        if self._output_backward is not None:
            self._output_backward(d_BO, y_BO)
        for k in range(len(layers) - 1, -1, -1):
            layer = layers[k]
            x_BI = outputs[k - 1] if k else batch.x_BI
            if layer.wide:
                layer.gradient_OI.copy_(products.gradient_by_weights(d_BO, x_BI))
            else:
                torch.mm(d_BO.t(), x_BI, out=layer.gradient_OI)
            torch.sum(d_BO, 0, out=layer.bias_gradient_O)
            if k:
                if layer.wide:
                    d_BO = products.gradient_by_inputs(d_BO, layer.weight_OI)
                else:
                    d_BO = torch.mm(d_BO, layer.weight_OI, out=deltas[k - 1])
                if self._activation_backward is not None:
                    self._activation_backward(d_BO, x_BI)

    def _turn_to_gradient(self, error: torch.Tensor) -> None:
        """Errors become the gradient of the loss by the outputs, in place."""
        recipe = self.recipe
        if recipe.loss == "mse":
            error.mul_(2.0 / error.numel())
        elif recipe.loss == "mae":
            torch.sign(error, out=error).div_(error.numel())
        else:  # huber
            error.clamp_(-recipe.huber_delta, recipe.huber_delta).div_(error.numel())

    def _update(self, rate) -> None:
        recipe = self.recipe
        if recipe.gradient_clip > 0.0:
            norm = torch.linalg.vector_norm(self._gradient)
            self._gradient.mul_((recipe.gradient_clip / (norm + _CLIP_EPSILON)).clamp_(max=1.0))
        self._updates.add_(1)
        update_flat(recipe, self._weights, self._gradient, self._moments, self._updates, rate)

    def _validate(self, piece: Piece) -> None:
        data, widths = self.data, self.spec.widths[1:]
        if self._low is not None:
            self._factors.copy_(self._weights)
        rows = piece.stop - piece.start
        chunk = _ceil(rows, _ceil(rows, self._chunk_rows))
        for start in range(piece.start, piece.stop, chunk):
            stop = min(start + chunk, piece.stop)
            if stop - start not in self._chunks:
                self._chunks[stop - start] = [_matrix(self._pair[k % 2], stop - start, w) for k, w in enumerate(widths)]
            x_BI = data.x_validation_NI[start:stop]
            outputs = self._forward(x_BI if self._low is None else x_BI.to(self._low), self._chunks[stop - start])
            if data.direct is None:
                error = _matrix(self._error, stop - start, widths[-1])
                torch.sub(outputs[-1], data.y_validation_NO[start:stop], out=error)
            else:
                error = data.direct(x_BI, outputs[-1]) - data.y_validation_NO[start:stop]
            self._sums[1] += error.square_().sum(dtype=torch.float64)

    # -- results and state ----------------------------------------------------------------------------------------

    def best_weights(self) -> dict[str, torch.Tensor]:
        with self._lane.use():
            flat = self._best.cpu()
        weights = {}
        for k, (start, fan_in, fan_out) in enumerate(_blocks(self.spec)):
            middle, stop = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
            weights[f"{2 * k}.weight"] = flat[start:middle].view(fan_out, fan_in).clone()
            weights[f"{2 * k}.bias"] = flat[middle:stop].clone()
        return weights

    def state(self) -> dict:
        with self._lane.use():
            weights, best, first, second = (t.to("cpu", copy=True) for t in (self._weights, self._best, *self._moments))
            updates, sums = int(self._updates), self._sums.tolist()
        return self._progress_state() | {
            "weights": weights,
            "best": best,
            "first_moment": first if updates else None,
            "second_moment": second if updates else None,
            "updates": updates,
            "order": self._order_state if self._position else self._order.get_state(),
            "position": self._position,
            "sums": sums[:2] if self._position else [0.0, 0.0],
        }

    def restore(self, state: dict) -> None:
        self._restore_progress(state)
        with self._lane.use(), torch.no_grad():
            self._weights.copy_(state["weights"])
            self._best.copy_(state["best"])
            self._updates.fill_(state["updates"])
            for moment, name in zip(self._moments, ("first_moment", "second_moment"), strict=True):
                if state[name] is not None:
                    moment.copy_(state[name])
            self._position = state["position"]
            if self._position:
                self._begin_epoch()
                self._sums[:2] = torch.tensor(state["sums"], dtype=torch.float64)


def _blocks(spec: MLPSpec) -> Iterator[tuple[int, int, int]]:
    """Where each layer begins in the flat buffers, its inputs and its outputs."""
    start = 0
    for fan_in, fan_out in itertools.pairwise(spec.widths):
        yield start, fan_in, fan_out
        start += (fan_in + 1) * fan_out


def _matrix(flat: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    return flat[: rows * width].view(rows, width)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
