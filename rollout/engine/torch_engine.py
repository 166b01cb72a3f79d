"""The engine that runs a torch model over pages of keys and values: exact, because blocks are causal."""

import functools
from typing import Final

import torch
from jaxtyping import Bool, Float, Int16
from torch import Tensor, nn

from redraft.rollout.config import LOGITS_BYTES
from redraft.rollout.engine.graphs import Body, Capture, CudaCapture, GraphedBody, GraphUse
from redraft.rollout.engine.paged_cache import PagedCache
from redraft.rollout.engine.protocol import DiffusionModel, Outcome, Pass, as_diffusion_model, as_routed_model
from redraft.rollout.engine.scores import HeadScores

GRAPHED_TYPES: Final = (torch.bfloat16, torch.float16)
"""Types with CUDA graphs. Grouped products in other types ask the device for group sizes, which a graph cannot."""


class _PagedBody:
    """Run a network on pages. Not a method of the session, which would then refer to itself and keep its pages."""

    def __init__(self, model: DiffusionModel, cache: PagedCache, block_length: int) -> None:
        self._model, self._cache, self._block_length = model, cache, block_length

    def __call__(self, batch: Pass) -> Float[Tensor, "entries query hidden"]:
        """Compute the hidden states of a pass."""
        return self._model.hidden_states(batch.tokens, batch.positions, self.aim(batch), self._cache)

    def aim(self, batch: Pass) -> Bool[Tensor, "entries #query key"]:
        """Point the cache at the pass; return the block-causal mask of what its queries may attend to."""
        self._cache.aim(batch.write, batch.table)
        keys = torch.arange(batch.table.shape[1] * self._block_length, device=batch.table.device)
        return keys < batch.reach[..., None]


class TorchSession:
    """Pages on a torch model."""

    def __init__(
        self, model: DiffusionModel, cache: PagedCache, block_length: int, mask: int, logits_bytes: int
    ) -> None:
        self._model, self._cache = model, cache
        self._block_length, self._mask, self._logits_bytes = block_length, mask, logits_bytes
        self._plain = _PagedBody(model, cache, block_length)
        self.body: Body = self._plain
        self.graphs: GraphUse | None = None  # stays None without graphs

    def use_graphs(self, capture: Capture) -> None:
        """Replay captured forwards from now on, wherever no routes are recorded."""
        body = GraphedBody(self._plain, capture)
        self.body, self.graphs = body, body.use

    def forward(self, batch: Pass, num_active: int, record: bool) -> Outcome:
        """See `DecodeSession.forward`."""
        hidden, routes = self._run(batch, record)
        scores = HeadScores(hidden[:num_active], self._model.head_weight, self._mask, self._logits_bytes)
        # The tape holds the tokens of all entries, one entry after the other; the active blocks come first.
        if routes is not None:
            routes = routes[:, : num_active * self._block_length].unflatten(1, (num_active, -1)).transpose(0, 1)
        return Outcome(scores, routes)

    def prefill(self, batch: Pass) -> None:
        """See `DecodeSession.prefill`."""
        self._run(batch, record=False)

    def _run(
        self, batch: Pass, record: bool
    ) -> tuple[Float[Tensor, "entries query hidden"], Int16[Tensor, "layers tokens k"] | None]:
        if not record:
            return self.body(batch), None
        model = as_routed_model(self._model)
        tape = model.route_tape()
        hidden = model.hidden_states(batch.tokens, batch.positions, self._plain.aim(batch), self._cache, tape)
        return hidden, tape.routes


class TorchEngine:
    """Decode with any module that is a `DiffusionModel`, in its dtype, on its device."""

    def __init__(
        self,
        model: nn.Module,
        cache_bytes: int | None = None,
        logits_bytes: int = LOGITS_BYTES,
        cuda_graphs: bool = True,
    ) -> None:
        """Wrap `model`; its train or eval mode is left as it is.

        Args:
            model: The policy.
            cache_bytes: Most memory that keys and values may take. None takes what the requests need, on a GPU at most
                half of what is free.
            logits_bytes: Most memory that logits may take at a time.
            cuda_graphs: Replay forwards from CUDA graphs where the model runs on a GPU in 16 bits.

        Raises:
            TypeError: The module lacks a part of `DiffusionModel`.
            ValueError: Its geometry is not supported.
        """
        self._model = as_diffusion_model(model, "decoded")
        self._cache_bytes, self._logits_bytes, self._graphs = cache_bytes, logits_bytes, cuda_graphs

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return self._parameter.device

    @property
    def max_length(self) -> int:
        """Positions that the model can address, in tokens."""
        return self._model.max_positions

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._model.vocab_size

    def max_pages(self, block_length: int) -> int | None:
        """See `Engine.max_pages`."""
        if self._most_bytes is None:
            return None
        page = self._model.cache_shape.bytes_per_token(self._parameter.dtype) * block_length
        return max(0, self._most_bytes // page - 1)  # page 0 takes room too

    def open(self, num_pages: int, block_length: int, mask: int) -> TorchSession:
        """See `Engine.open`."""
        cache = PagedCache(
            self._model.cache_shape, num_pages, block_length, dtype=self._parameter.dtype, device=self.device
        )
        session = TorchSession(self._model, cache, block_length, mask, self._logits_bytes)
        if self._graphs and self.device.type == "cuda" and self._parameter.dtype in GRAPHED_TYPES:
            session.use_graphs(CudaCapture(self.device))
        return session

    def forget_free_memory(self) -> None:
        """Look up anew how much memory pages may take: other parts took some or gave some back."""
        self.__dict__.pop("_most_bytes", None)

    @functools.cached_property
    def _most_bytes(self) -> int | None:
        """Look up the limit for pages once: later, our own pages are part of the memory that is not free."""
        if self._cache_bytes is None and self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] // 2
        return self._cache_bytes

    @property
    def _parameter(self) -> nn.Parameter:
        return next(self._model.parameters())


def store_by_input(model: nn.Module) -> nn.Module:
    """Store matrices on a CPU by input and not by output, as products with few tokens read them; shapes stay.

    Products with one block, or with a few tokens of an expert, then take two thirds of the time (benchmarks/NOTES.md).
    Those of training have many tokens and gain nothing.
    """
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() >= 2 and parameter.device.type == "cpu" and not isinstance(module, nn.Embedding):
                parameter.data = parameter.data.mT.contiguous().mT
    return model
