"""FGCNN: convolutions make new features for a product network (Liu et al., WWW 2019, 1904.04447).

Shapes: B batch, F fields, E embedding size, C channels, H height (fields, then pooled fields),
T = F + new features, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP, InnerProducts
from clickprompt.ctr.embedding import FeatureEmbedding


class FGCNN(CTRModel):
    """Feature generation by convolution, then an inner-product network (section 3).

    A table of its own gives M_0 (1 channel, height F, width E). Layer i makes
    M_i = maxpool(tanh(norm(conv(M_{i-1})))) over the height, and of it new features
    R_i = tanh(W_i vec(M_i) + b_i), read as (r_i * H_i) vectors of width E. With
    t = [e_1; ...; e_F; R_1; ...; R_n], T vectors in all: q = MLP([t; <t_1, t_2>; <t_1, t_3>; ...])
    and logit = w.q + b. D = the last hidden size.

    A height that the pooling does not divide is padded on both sides, as in the reference, and
    becomes ceil(H / pooling).

    NOTE[DIFF]: the paper's equations have no batch norm between convolution and tanh; here there
    is one, as in the reference. It makes training depend on ``accumulate`` of a stage: the
    statistics are those of a part of the batch.

    Args:
        field_sizes: table rows per field, two fields or more.
        embedding_size: E.
        fgcnn_channels: C of each layer.
        fgcnn_kernels: height of each layer's kernel, odd.
        fgcnn_pooling: rows that each layer's pooling makes one of.
        fgcnn_recombined: r of each layer, new features per row that is left.
        hidden_sizes: widths of the deep part.
        dropout: after each layer of the deep part.
        bags: members of the bag fields.

    Raises:
        ValueError: fewer than two fields, lists of different lengths, or a height that the pooling
            cannot cover by padding.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        fgcnn_channels: Sequence[int],
        fgcnn_kernels: Sequence[int],
        fgcnn_pooling: Sequence[int],
        fgcnn_recombined: Sequence[int],
        hidden_sizes: Sequence[int],
        dropout: float = 0.0,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=hidden_sizes[-1],
            bags=bags,
        )
        lengths = {
            len(sizes) for sizes in (fgcnn_channels, fgcnn_kernels, fgcnn_pooling, fgcnn_recombined)
        }
        if len(lengths) > 1:
            raise ValueError(f"fgcnn's lists must have the same length, got {sorted(lengths)}")
        self.convolution_embedding = FeatureEmbedding(
            field_sizes=field_sizes, embedding_size=embedding_size, bags=bags
        )
        self.generators = nn.ModuleList()
        channels_in, height, features = 1, len(field_sizes), len(field_sizes)
        for channels, kernel, pooling, recombined in zip(
            fgcnn_channels, fgcnn_kernels, fgcnn_pooling, fgcnn_recombined, strict=True
        ):
            layer = FeatureGenerator(
                channels_in=channels_in,
                height=height,
                width=embedding_size,
                channels=channels,
                kernel=kernel,
                pooling=pooling,
                recombined=recombined,
            )
            self.generators.append(layer)
            channels_in, height = channels, layer.height
            features += recombined * height
        self.products = InnerProducts(fields=features)
        self.deep = MLP(
            input_size=features * embedding_size + features * (features - 1) // 2,
            hidden_sizes=hidden_sizes,
            dropout=dropout,
        )

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Output of the last hidden layer: (B, F) -> (B, D)."""
        features = [self.embedding(x_id_BF)]
        map_BCHE = self.convolution_embedding(x_id_BF).unsqueeze(1)
        for layer in self.generators:
            map_BCHE, new_BRE = layer(map_BCHE)
            features.append(new_BRE)
        x_BTE = torch.cat(features, dim=1)
        return self.deep(torch.cat([x_BTE.flatten(1), self.products(x_BTE)], dim=1))


class FeatureGenerator(nn.Module):
    """One convolution with batch norm, tanh and pooling, and the recombination of its output."""

    def __init__(
        self,
        *,
        channels_in: int,
        height: int,
        width: int,
        channels: int,
        kernel: int,
        pooling: int,
        recombined: int,
    ) -> None:
        super().__init__()
        padding = height % pooling
        if padding > pooling // 2:
            raise ValueError(
                f"fgcnn_pooling must leave at most {pooling // 2} of {height} rows over, "
                f"got {pooling}, which leaves {padding}"
            )
        self.height = -(-height // pooling)
        self.width = width
        self.convolution = nn.Conv2d(
            channels_in, channels, kernel_size=(kernel, 1), padding=(kernel // 2, 0)
        )
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.MaxPool2d((pooling, 1), padding=(padding, 0))
        self.recombine = nn.Linear(channels * self.height * width, recombined * self.height * width)

    def forward(self, map_BCHE: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, E) -> pooled map, and new features (B, r * pooled height, E)."""
        map_BCHE = self.pool(self.norm(self.convolution(map_BCHE)).tanh())
        new_BX = self.recombine(map_BCHE.flatten(1)).tanh()
        return map_BCHE, new_BX.unflatten(1, (-1, self.width))
