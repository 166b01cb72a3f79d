"""What likelihoods and networks agree on."""

from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

Mask = Bool[Tensor, "1 rows rows"] | BlockMask
