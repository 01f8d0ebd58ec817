"""What is trained, and what is computed for it, when the language model is adapted cheaply."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel, BertConfig, BertModel

from clickprompt.parameters import (
    FinetuneWithPLMParameters,
    LoRAParameters,
    MaskingParameters,
    PLMParameters,
    PretrainParameters,
)
from clickprompt.plm import load_encoder, load_tokenizer
from clickprompt.training import export, parts, stages
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import ClickObjective, MaskedTokenObjective
from clickprompt.training.optimizer import parameter_groups
from tests.training.tiny_run import CTR, PROMPTS, training

ROWS = np.arange(120)
CPU = Machine(device=torch.device("cpu"), precision="float32")
QUICK = {"epochs": 1, "batch_size": 64}
LORA = LoRAParameters(rank=2, alpha=4)


@pytest.fixture(scope="module")
def two_layers(inputs_folder, tmp_path_factory) -> PLMParameters:
    """The tiny PLM with two layers, of sizes that no other part of the model has."""
    folder = tmp_path_factory.mktemp("two_layers")
    for path in (inputs_folder / "plm").glob("*token*"):
        shutil.copy(path, folder)
    config = BertConfig.from_pretrained(inputs_folder / "plm")
    config.num_hidden_layers, config.intermediate_size = 2, 88
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return PLMParameters(source=str(folder), keep_layers=None)


# --- a frozen language model -----------------------------------------------------------


class Made(TorchDispatchMode):
    """Counts the gradients of weights that operations make: (operation, sizes in order)."""

    def __init__(self, sizes: set[tuple[int, ...]]) -> None:
        super().__init__()
        self.count: Counter[tuple[int, ...]] = Counter()
        self._sizes = sizes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "sum", "native_layer_norm_backward", "embedding_dense_backward"):
            for tensor in tree_leaves(made):
                if isinstance(tensor, torch.Tensor):
                    size = sorted_size(tensor)
                    self.count[size] += size in self._sizes
        return made


def sorted_size(tensor: torch.Tensor) -> tuple[int, ...]:
    """Sizes in order, without those of 1: a gradient may be computed transposed."""
    return tuple(sorted(size for size in tensor.shape if size > 1))


@contextmanager
def counted(model):
    """Weight-sized results of the backward pass in the block, those of the PLM's sizes."""
    sizes = {sorted_size(parameter) for parameter in model.encoder.parameters()}
    with Made(sizes) as made:
        yield made.count
    for size in [size for size, count in made.count.items() if not count]:
        del made.count[size]


def expected(model, *, trained: bool) -> Counter:
    """One gradient for each parameter of these sizes that is (or would be) trained."""
    sizes = {sorted_size(parameter) for parameter in model.encoder.parameters()}
    return Counter(
        sorted_size(parameter)
        for name, parameter in model.named_parameters()
        if sorted_size(parameter) in sizes
        and (parameter.requires_grad or (not trained and name.startswith("encoder.")))
    )


def pretraining(model_input, plm, stage):
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    for parameter in ctr.logit_parameters():
        parameter.requires_grad_(False)
    encoder = parts.load_plm(plm, stage, 0)
    model = stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder, generator=torch.Generator().manual_seed(0)),
    )
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=CPU,
        masking=MaskingParameters(),
        batch_size=len(ROWS),
        evaluation_batch_size=64,
        seed=5,
    )
    return model, objective, objective.prepare(ROWS, 0, 0)


def clicks(model_input, plm, stage):
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    encoder = parts.load_plm(plm, stage, 0)
    model = parts.ClickPromptForClicks(
        ctr=ctr, generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0), encoder=encoder
    )
    objective = ClickObjective(
        model_input=model_input,
        machine=CPU,
        batch_size=len(ROWS),
        evaluation_batch_size=64,
        seed=5,
        text=True,
    )
    return model, objective, objective.prepare(ROWS)


STAGES = {
    "pretrain": (pretraining, PretrainParameters),
    "finetune_with_plm": (clicks, FinetuneWithPLMParameters),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_rate_of_zero_means_no_gradient_work_for_the_plm(model_input, two_layers, stage):
    """Gradients of weights are counted by their sizes; with a rate above 0 all are there."""
    build, kind = STAGES[stage]
    for rate in (1e-3, 0.0):
        settings = kind(**QUICK, learning_rate_plm=rate)
        model, objective, batch = build(model_input, two_layers, settings)
        parameter_groups(model, settings)
        loss = objective.loss_sum(model, batch)
        with counted(model) as made:
            loss.backward()
        assert made == expected(model, trained=True)
        frozen = [p for p in model.encoder.parameters() if p.grad is None]
        assert len(frozen) == (0 if rate else len(list(model.encoder.parameters())))
        assert all(p.grad is not None and p.grad.any() for p in model.generator.parameters())
        everything = expected(model, trained=False)
        assert (made == everything) == (rate > 0)
        if not rate:
            of_encoder = Counter(sorted_size(p) for p in model.encoder.parameters())
            assert everything - made == of_encoder


def test_without_prompts_nothing_goes_back_through_a_frozen_plm(two_layers):
    encoder = load_encoder(two_layers).requires_grad_(False)
    hidden = encoder(torch.full((3, 8), 7), None)
    assert not hidden.requires_grad


def test_a_frozen_plm_has_no_dropout(model_input, two_layers):
    for build, kind in STAGES.values():
        for rate in (1e-3, 0.0):
            plm = two_layers.model_copy(update={"lora": LoRAParameters(dropout=0.2)})
            settings = kind(**QUICK, learning_rate_plm=rate)
            model, objective, batch = build(model_input, plm, settings)
            with torch.no_grad():
                first, second = (float(objective.loss_sum(model, batch)) for _ in range(2))
            assert (first == second) == (rate == 0)


# --- stages ----------------------------------------------------------------------------


def run(model_input, plm, folder, *, seed=3, pretrain=None, finetune=None):
    shared = {
        "model_input": model_input,
        "ctr": CTR,
        "plm": plm,
        "prompts": PROMPTS,
        "training": training(folder),
        "seed": seed,
    }
    pretrained = stages.pretrain(**shared, stage=PretrainParameters(**QUICK, **(pretrain or {})))
    together = stages.finetune_with_plm(
        **shared,
        pretrained=pretrained,
        stage=FinetuneWithPLMParameters(**QUICK, **(finetune or {})),
    )
    return pretrained, together


def tensors_of(trained) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("encoder.").replace(".base_layer.", "."): tensor
        for name, tensor in load_file(trained.weights_path).items()
        if name.startswith("encoder.")
    }


@pytest.mark.parametrize("rate", [1e-3, 0.0])
def test_stages_with_lora_move_the_adapters_only(model_input, two_layers, tmp_path, rate):
    """Pretraining moves them, finetuning moves them further, or keeps them with a rate of 0."""
    plm = two_layers.model_copy(update={"lora": LORA})
    pretrained, together = run(model_input, plm, tmp_path, finetune={"learning_rate_plm": rate})
    start = load_encoder(two_layers).state_dict()
    first, second = tensors_of(pretrained), tensors_of(together)
    assert first.keys() == second.keys()
    added = first.keys() - start.keys()
    assert len(added) == 2 * 2 * 2
    for name in first:
        if name in start:
            assert torch.equal(first[name], start[name])
            assert torch.equal(second[name], start[name])
        else:
            assert first[name].any()
            assert torch.equal(first[name], second[name]) == (rate == 0)
    numbers = sum(first[name].numel() for name in added)
    assert pretrained.report["trained_parameter_counts"]["encoder"] == numbers
    assert together.report["trained_parameter_counts"].get("encoder", 0) == (numbers if rate else 0)
    assert together.report["parameter_counts"]["encoder"] == sum(t.numel() for t in second.values())
    assert together.report["versions"]["peft"]


def test_lora_is_reproducible(model_input, two_layers, tmp_path):
    plm = two_layers.model_copy(update={"lora": LoRAParameters(rank=2, dropout=0.1)})
    runs = [run(model_input, plm, tmp_path / name) for name in ("first", "second")]
    torch.manual_seed(99)
    for first, second in zip(*runs, strict=True):
        ours, theirs = load_file(first.weights_path), load_file(second.weights_path)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_other_adapters_than_those_of_pretraining_are_an_error(model_input, two_layers, tmp_path):
    adapted = two_layers.model_copy(update={"lora": LORA})
    shared = {"model_input": model_input, "ctr": CTR, "prompts": PROMPTS, "seed": 3}
    shared["training"] = training(tmp_path)
    pretrained = stages.pretrain(**shared, plm=adapted, stage=PretrainParameters(**QUICK))
    stage = FinetuneWithPLMParameters(**QUICK)
    ours = r"{rank: 2, alpha: 4.0, targets: \['query', 'value'\]} from layer 1 on"
    for lora, layers, found in (
        (None, 0, "null"),
        (LORA.model_copy(update={"rank": 4}), 0, r"{rank: 4, .*} from layer 1 on"),
        (LORA, 1, r"{rank: 2, .*} from layer 2 on"),
    ):
        plm = two_layers.model_copy(update={"lora": lora, "freeze_layers": layers})
        with pytest.raises(
            ValueError, match=f"plm.lora must be that of the pretraining, {ours}, got {found}$"
        ):
            stages.finetune_with_plm(**shared, plm=plm, pretrained=pretrained, stage=stage)
    # The dropout of the adapters is no part of them.
    plm = two_layers.model_copy(update={"lora": LORA.model_copy(update={"dropout": 0.3})})
    stages.finetune_with_plm(**shared, plm=plm, pretrained=pretrained, stage=stage)


def test_adapters_that_pretraining_does_not_train_are_an_error(model_input, two_layers, tmp_path):
    plm = two_layers.model_copy(update={"lora": LORA})
    with pytest.raises(
        ValueError, match=r"pretrain.learning_rate_plm must be above 0 with plm.lora .* got 0"
    ):
        run(model_input, plm, tmp_path, pretrain={"learning_rate_plm": 0.0})


def test_frozen_lower_layers_stay_as_they_were(model_input, two_layers, tmp_path):
    plm = two_layers.model_copy(update={"freeze_layers": 1})
    pretrained, together = run(model_input, plm, tmp_path)
    start = load_encoder(two_layers).state_dict()
    for trained in (pretrained, together):
        for name, tensor in tensors_of(trained).items():
            below = name.startswith(("model.embeddings.", "model.encoder.layer.0."))
            # A key bias has no gradient: softmax does not feel a shift of all scores.
            if below or ".key.bias" not in name:
                assert torch.equal(tensor, start[name]) == below, name


def test_all_layers_frozen_is_an_error_of_pretraining(model_input, two_layers, tmp_path):
    plm = two_layers.model_copy(update={"freeze_layers": 2})
    with pytest.raises(ValueError, match=r"plm.freeze_layers must be below the 2 layers .* got 2"):
        run(model_input, plm, tmp_path)


def test_checkpointing_gives_the_same_weights(model_input, two_layers, tmp_path):
    saving = two_layers.model_copy(update={"gradient_checkpointing": True})
    for plain, other in zip(
        run(model_input, two_layers, tmp_path), run(model_input, saving, tmp_path), strict=True
    ):
        assert plain.digest != other.digest
        ours, theirs = load_file(plain.weights_path), load_file(other.weights_path)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- export ----------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [LORA, None])
@torch.no_grad()
def test_an_exported_plm_is_a_plain_one(model_input, two_layers, tmp_path, lora, monkeypatch):
    plm = two_layers.model_copy(update={"lora": lora})
    with torch.enable_grad():
        pretrained, _ = run(model_input, plm, tmp_path / "models")
    reference = tmp_path / "pretrained.json"
    reference.write_text(pretrained.model_dump_json())
    folder = tmp_path / "exported"
    monkeypatch.setattr("sys.argv", ["export", str(reference), str(folder)])
    export.main()
    trained = load_encoder(plm)
    trained.load_state_dict(
        {
            name.removeprefix("encoder."): tensor
            for name, tensor in load_file(pretrained.weights_path).items()
            if name.startswith("encoder.")
        }
    )
    token_ids_BN = torch.arange(24).view(3, 8)
    expected = trained.double().eval()(token_ids_BN, None)
    ours = load_encoder(PLMParameters(source=str(folder), keep_layers=None)).double().eval()
    theirs = AutoModel.from_pretrained(folder, add_pooling_layer=False).double().eval()
    torch.testing.assert_close(ours(token_ids_BN, None), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        theirs(input_ids=token_ids_BN).last_hidden_state, expected, rtol=1e-5, atol=1e-6
    )
    exported = PLMParameters(source=str(folder))
    assert load_tokenizer(exported).get_vocab() == load_tokenizer(plm).get_vocab()


def test_a_stage_without_a_plm_cannot_be_exported(model_input, tmp_path):
    from clickprompt.parameters import ClickStageParameters

    backbone = stages.train_backbone(
        model_input=model_input,
        ctr=CTR,
        stage=ClickStageParameters(**QUICK),
        training=training(tmp_path),
        seed=0,
    )
    with pytest.raises(ValueError, match="must have a language model, got 'backbone'"):
        export.export_plm(backbone, Path(tmp_path / "exported"))
