"""What a recorded pass is told anew each time: numbers written on the host and copied over in one go.

Knows sizes and memory; knows nothing of models.
"""

from __future__ import annotations

import torch


class Told:
    """The inputs of a pass of `rows` rows, on the device, where they stay; the rows beyond those in use are padding.

    base: () entries that all rows see. last: (1,) the last row in use. tokens, depths, slots: (rows,). visible:
    (rows, block) bool, whom each row sees of the block behind the base: at first those before it, and itself.
    """

    def __init__(self, rows: int, block: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self._numbers = torch.zeros(2 + 3 * rows, dtype=torch.int64, device=device)
        self.base, self.last = self._numbers[0], self._numbers[1:2]
        self.tokens, self.depths, self.slots = self._numbers[2:].chunk(3)
        self.visible = torch.ones(rows, block, dtype=torch.bool, device=device).tril()
        # Pinned, so that the copies need not be waited for.
        self._host = torch.zeros(2 + 3 * rows, dtype=torch.int64, pin_memory=cuda)
        self._host_tokens, self._host_depths, self._host_slots = self._host[2:].chunk(3)
        self._host_visible = torch.zeros(rows, block, dtype=torch.bool, pin_memory=cuda)
        self._line = torch.arange(rows)
        self._copied = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]

    def tell(
        self,
        tokens: torch.Tensor,
        *,
        base: int,
        first: int,
        padding: int,
        depths: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> None:
        """tokens (n,) go to slots first, first + 1, ..., and padding to slot `padding`. depths (n,) and visible
        (n, entries) where they are no line. Tensors may lie here or on the device."""
        count = len(tokens)
        if self._copied is not None:
            self._copied.synchronize()  # what was told last may still be on its way
        self._host[0], self._host[1] = base, count - 1
        torch.add(self._line[:count], first, out=self._host_slots[:count])
        self._host_slots[count:] = padding
        depths = self._line if depths is None else depths
        places = ((tokens, self._host_tokens, self.tokens), (depths, self._host_depths, self.depths))
        for told, host, _ in places:
            if told.device.type == "cpu":
                host[: len(told)] = told
        self._numbers.copy_(self._host, non_blocking=True)
        for told, _, there in places:
            if told.device.type != "cpu":
                there[: len(told)] = told
        if visible is not None:
            self._see(visible)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self.base.device))

    def _see(self, visible: torch.Tensor) -> None:
        rows, entries = visible.shape
        if visible.device.type == "cpu":
            self._host_visible.zero_()
            self._host_visible[:rows, :entries] = visible
            self._host_visible[rows:, 0] = True  # padding sees something: the softmax of nothing may be no number
            self.visible.copy_(self._host_visible, non_blocking=True)
        else:
            self.visible.zero_()
            self.visible[:rows, :entries] = visible
            self.visible[rows:, 0] = True
